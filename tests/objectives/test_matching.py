"""Matching and contrast: negatives never belong together, hard ones come more often, the losses in plain floats."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.objectives.joint_step import fingerprints
from polymodal.objectives.matching import Matching, draw_negatives
from polymodal.types import Batch, Fused, Text
from tests.objectives import joint_toy

MATCHING = {"kind": "matching"}
CONTRAST = {"kind": "contrastive", "width": 8}


def test_what_is_alike_is_drawn_more_often_and_the_own_row_never() -> None:
    likeness = torch.tensor([[9.0, 2.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])
    allowed = ~torch.eye(3, dtype=torch.bool)
    draw = torch.Generator().manual_seed(0)
    counts = torch.zeros(3, 3)
    for _ in range(500):
        rows, columns = draw_negatives(likeness, allowed, draw)
        assert rows.tolist() == [0, 1, 2]
        counts[rows, columns] += 1
    assert counts.diagonal().tolist() == [0, 0, 0]
    hard = math.exp(2) / (math.exp(2) + 1)
    assert (counts[0] / 500).tolist() == pytest.approx([0, hard, 1 - hard], abs=0.06)
    assert (counts[1] / 500).tolist() == pytest.approx([0.5, 0, 0.5], abs=0.08)


def test_a_row_without_a_negative_is_left_out() -> None:
    allowed = torch.tensor([[False, False], [True, False]])
    rows, columns = draw_negatives(torch.zeros(2, 2), allowed, torch.Generator())
    assert rows.tolist() == [1]
    assert columns.tolist() == [0]
    rows, columns = draw_negatives(torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool), torch.Generator())
    assert len(rows) == len(columns) == 0


def test_huge_likeness_is_still_a_number() -> None:
    likeness = torch.tensor([[0.0, 1e4, -1e4], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    _, columns = draw_negatives(likeness, ~torch.eye(3, dtype=torch.bool), torch.Generator().manual_seed(0))
    assert columns[0] == 1


def drawn(batch: Batch, seeds: int, *more: dict[str, Any]) -> list[tuple[Tensor, Tensor, Tensor]]:
    joint = joint_toy.objectives(MATCHING, *more)
    model, objective = joint_toy.model(joint).eval(), joint.objectives[0]
    assert isinstance(objective, Matching)
    both = batch.present["image"] & batch.present["text"]
    steps = [joint_toy.step(model, batch, seed) for seed in range(seeds)]
    encoded = steps[0].encoded
    for step in steps:
        step.encoded = encoded
    return [objective.negatives(step, both) for step in steps]


def equal_rows() -> Batch:
    """Rows 0 and 3 show the same picture, rows 1 and 4 have the same text; row 5 has no text."""
    batch = joint_toy.batch()
    pixels, text = joint_toy.pixels(), joint_toy.text()
    pixels[3] = pixels[0]
    ids, mask = text.ids.clone(), text.mask.clone()
    ids[4], mask[4] = ids[1], mask[1]
    there = torch.tensor([True] * 5 + [False])
    return batch._replace(inputs={"image": pixels, "text": Text(ids, mask)}, present={**batch.present, "text": there})


@pytest.mark.parametrize("hard", [False, True])
def test_equal_pictures_and_equal_texts_are_no_negatives(hard: bool) -> None:
    batch = equal_rows()
    belong = {(i, i) for i in range(6)} | {(0, 3), (3, 0), (1, 4), (4, 1)}
    seen = set()
    for firsts, seconds, others in drawn(batch, 40, *([CONTRAST] if hard else [])):
        pairs = list(zip(firsts.tolist(), seconds.tolist(), strict=True))
        assert len(pairs) == 10
        assert not belong & set(pairs)
        assert all(5 not in pair for pair in pairs)
        assert others.tolist() == [0, 1, 2, 3, 4] * 2
        seen |= set(pairs)
    assert len(seen) > 10 if hard else len(seen) == 5 * 5 - 5 - 4


@pytest.mark.parametrize("swapped", ["first", "second", "both"])
def test_the_nearest_of_the_other_input_is_swapped_in(swapped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    joint = joint_toy.objectives(MATCHING | {"negatives": swapped})
    objective = joint.objectives[0]
    assert isinstance(objective, Matching)
    likeness = torch.zeros(6, 6)
    # The picture of row i is likest to the text of row i + 1: so the text of row i to the picture of row i - 1.
    likeness[torch.arange(6), (torch.arange(6) + 1) % 6] = 1e4
    monkeypatch.setattr(objective, "_likeness", lambda *_: likeness)
    step = joint_toy.step(joint_toy.model(joint).eval())
    firsts, seconds, others = (one.tolist() for one in objective.negatives(step, torch.ones(6, dtype=torch.bool)))
    rows = [*range(6)]
    of_text, of_picture = (rows, [1, 2, 3, 4, 5, 0], rows), ([5, 0, 1, 2, 3, 4], rows, rows)
    match swapped:
        case "first":
            assert (firsts, seconds, others) == of_picture
        case "second":
            assert (firsts, seconds, others) == of_text
        case _:
            assert (firsts, seconds, others) == tuple(a + b for a, b in zip(of_text, of_picture, strict=True))


def test_only_pairs_that_are_all_alike_is_no_loss_from_negatives() -> None:
    batch = joint_toy.batch()
    alike = joint_toy.pixels()[:1].expand(6, -1, -1, -1)
    ((firsts, seconds, _),) = drawn(batch._replace(inputs={**batch.inputs, "image": alike}), 1)
    assert len(firsts) == len(seconds) == 0


def test_the_loss_in_plain_floats() -> None:
    joint = joint_toy.objectives(MATCHING)
    model = joint_toy.model(joint).eval()
    step = joint_toy.step(model)
    result = joint(step)
    again = joint_toy.step(model)
    objective = joint.objectives[0]
    assert isinstance(objective, Matching)
    firsts, seconds, _ = objective.negatives(again, torch.ones(6, dtype=torch.bool))
    pixels, text = joint_toy.pixels(), joint_toy.text()
    nats, right = [], 0
    for i, j, label in [
        *((i, i, 1) for i in range(6)),
        *((i, j, 0) for i, j in zip(firsts.tolist(), seconds.tolist(), strict=True)),
    ]:
        inputs = {"image": pixels[i : i + 1], "text": Text(text.ids[j : j + 1], text.mask[j : j + 1])}
        logits = model.pretraining["matching"](model(inputs).fused.pooled)[0].tolist()
        nats.append(math.log(sum(map(math.exp, logits))) - logits[label])
        right += logits[label] > logits[1 - label]
    assert len(nats) == 18
    assert result.loss.item() == pytest.approx(sum(nats) / 18, rel=1e-5)
    assert result.log["matching_accuracy"].item() == pytest.approx(right / 18)


SWAP = MATCHING | {"negatives": "swap"}


def test_half_of_the_texts_are_swapped_for_ones_that_do_not_belong() -> None:
    joint = joint_toy.objectives(SWAP)
    model, batch = joint_toy.model(joint), equal_rows()
    belong = {(i, i) for i in range(6)} | {(0, 3), (3, 0), (1, 4), (4, 1)}
    text, count = batch.inputs["text"], 0
    assert isinstance(text, Text)
    for seed in range(200):
        step = joint_toy.step(model, batch, seed)
        (swapped,) = joint.prepare(step)
        shown = step.hidden["text"]
        assert isinstance(shown, Text)
        moved = ~(shown.ids == text.ids).all(1)
        assert torch.equal(moved, swapped)
        assert not swapped[5]  # it has no text
        for row in swapped.nonzero().flatten().tolist():
            came = [other for other in range(5) if torch.equal(shown.ids[row], text.ids[other])]
            assert came
            assert all((row, other) not in belong for other in came)
        count += int(swapped.sum())
    assert count / (200 * 5) == pytest.approx(0.5, abs=0.05)


def test_swapping_shares_the_pass_of_the_masked_words() -> None:
    joint = joint_toy.objectives({"kind": "masked_text"}, SWAP)
    model = joint_toy.model(joint).eval()
    passes: list[int] = []
    model.fusion.register_forward_hook(lambda *_: passes.append(1))
    step = joint_toy.step(model)
    places, swapped = joint.prepare(step)
    result = joint(step)
    assert len(passes) == 1
    truth, shown = step.paired.inputs["text"], step.hidden["text"]
    assert isinstance(truth, Text)
    assert isinstance(shown, Text)
    assert swapped.any()
    assert places.any()
    assert torch.equal(shown.ids[~places], truth.ids[~places])  # words are hidden in the texts that were put there
    nats, right = [], 0
    for row in range(6):
        inputs = {"image": step.hidden["image"][row : row + 1], "text": Text(*(x[row : row + 1] for x in shown))}
        logits = model.pretraining["matching"](model(inputs).fused.pooled)[0].tolist()
        label = int(not swapped[row])
        nats.append(math.log(sum(map(math.exp, logits))) - logits[label])
        right += logits[label] > logits[1 - label]
    assert result.log["matching"].item() == pytest.approx(sum(nats) / 6, rel=1e-4)
    assert result.log["matching_accuracy"].item() == pytest.approx(right / 6)
    read = step.masked.fused.tokens["text"].sequence[places]
    found = torch.nn.functional.cross_entropy(model.pretraining["masked_text"](read), truth.ids[places])
    assert result.log["masked_text"].item() == pytest.approx(found.item(), rel=1e-5)


def test_only_one_matching_swaps() -> None:
    with pytest.raises(ConfigError, match='only one matching can have negatives "swap"; there is one masked batch'):
        joint_toy.objectives(SWAP, SWAP | {"head": "again", "first": "text", "second": "image"})


def test_one_output_is_a_yes_or_no() -> None:
    joint = joint_toy.objectives(MATCHING | {"negatives": "second"})
    model = joint_toy.model(joint, pretraining={}).eval()
    model.pretraining["matching"] = torch.nn.Linear(16, 1)
    result = joint(joint_toy.step(model))
    assert result.loss.item() == pytest.approx(math.log(2), abs=0.5)
    assert 0 <= result.log["matching_accuracy"].item() <= 1


def test_contrast_before_the_fusion() -> None:
    joint = joint_toy.objectives(CONTRAST)
    model = joint_toy.model(joint).eval()
    step = joint_toy.step(model, equal_rows())
    result = joint(step)
    first, second, scale = model.pretraining["contrastive"](step.encoded.tokens)
    same = {(0, 3), (3, 0), (1, 4), (4, 1)}
    nats = 0.0
    for one, other in ((first, second), (second, first)):
        for i in range(5):
            cosines = [scale.item() * (one[i] @ other[j]).item() for j in range(5)]
            nats += math.log(sum(math.exp(c) for j, c in enumerate(cosines) if (i, j) not in same)) - cosines[i]
    assert result.loss.item() == pytest.approx(nats / 10, rel=1e-4)
    assert set(result.log) == {"contrastive", "contrastive_accuracy", "contrastive_scale"}


@pytest.mark.parametrize("config", [MATCHING, SWAP, CONTRAST])
def test_a_batch_without_pairs_is_no_loss(config: dict[str, Any]) -> None:
    joint = joint_toy.objectives(config)
    model = joint_toy.model(joint)
    batch = joint_toy.batch()
    nobody = {**batch.present, "text": torch.zeros(6, dtype=torch.bool)}
    loss = joint(joint_toy.step(model, batch._replace(present=nobody))).loss
    assert loss.item() == 0
    loss.backward()
    pictures = Batch({"image": joint_toy.pixels()}, {"image": torch.ones(6, dtype=torch.bool)}, {}, {}, batch.rows)
    assert joint(joint_toy.step(model, pictures)).loss.item() == 0


def test_fingerprints_tell_rows_apart() -> None:
    pixels = joint_toy.pixels()
    pixels[3] = pixels[0]
    pixels[4] = pixels[0]
    pixels[4, 0, 0, 0] += 1e-3
    prints = fingerprints(pixels).tolist()
    assert prints[3] == prints[0]
    assert len(set(prints)) == 5
    text = Text(torch.tensor([[1, 2, 9], [1, 2, 8], [2, 1, 0]]), torch.tensor([[True, True, False]] * 3))
    first, second, third = fingerprints(text).tolist()
    assert first == second != third
    assert len(set(fingerprints(joint_toy.regions()).tolist())) == 6


def test_what_cannot_be_asked_says_why() -> None:
    with pytest.raises(ConfigError, match='objective matching: "txt" is no input; inputs: image, text; did you mean'):
        joint_toy.objectives(MATCHING | {"second": "txt"})
    with pytest.raises(ConfigError, match='first and second must be two inputs, got "text" twice'):
        joint_toy.objectives(CONTRAST | {"first": "text"})


def test_the_adversary_is_asked_for_what_it_says() -> None:
    joint = joint_toy.objectives({"kind": "modality"})
    with pytest.raises(ConfigError, match='needs the fusion "aligned", got "early"'):
        joint_toy.model(joint)
    model = joint_toy.model(joint, fusion={"kind": "aligned", "common": 8, "hidden": 8})
    for training in (True, False):
        step = joint_toy.step(model.train(training))
        result = joint(step)
        assert isinstance(step.fused, Fused)
        assert result.loss.item() == pytest.approx(math.log(2), abs=0.3)
        assert set(result.log) == {"modality"}
