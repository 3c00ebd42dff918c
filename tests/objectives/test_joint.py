"""Several objectives in one step: two runs of the model at most, logs without a graph, numbers that repeat."""

from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.types import StepResult, Text
from tests.objectives import joint_toy

ALL: list[dict[str, Any]] = [
    {"kind": "supervised", "balance": "uncertainty"},
    {"kind": "masked_text", "rate": 0.3},
    {"kind": "masked_image"},
    {"kind": "denoising"},
    {"kind": "mae", "width": 16, "layers": 1, "heads": 2},
    {"kind": "masked_regions", "rate": 0.5},
    {"kind": "matching", "first": "image", "second": "text"},
    {"kind": "contrastive", "width": 8},
]


def everything() -> tuple[Any, Any, Any]:
    known = joint_toy.features(regions=True)
    joint = joint_toy.objectives(*ALL, known=known)
    batch = joint_toy.batch(inputs={"regions": joint_toy.regions()})
    return joint, joint_toy.model(joint, known), batch


def test_all_together() -> None:
    joint, model, batch = everything()
    result = joint(joint_toy.step(model, batch))
    assert torch.isfinite(result.loss)
    kinds = {config["kind"] for config in ALL}
    assert kinds <= set(result.log)
    assert not any(value.requires_grad for value in result.log.values())
    result.loss.backward()
    without = [name for name, weight in [*model.named_parameters(), *joint.named_parameters()] if weight.grad is None]
    assert [name for name in without if not name.startswith("missing.")] == []


def test_the_model_runs_twice_however_many_objectives() -> None:
    joint, model, batch = everything()
    runs = []
    model.encoders["text"].register_forward_hook(lambda *_: runs.append("text"))
    joint(joint_toy.step(model, batch))
    assert runs == ["text", "text"]


def test_what_is_hidden_is_hidden_together() -> None:
    joint, model, batch = everything()
    step = joint_toy.step(model, batch)
    joint(step)
    hidden, text = step.hidden["text"], batch.inputs["text"]
    assert isinstance(hidden, Text)
    assert not torch.equal(hidden.ids, text.ids)
    assert not torch.equal(step.hidden["image"], batch.inputs["image"])  # type: ignore[arg-type]
    assert not torch.equal(step.hidden["regions"].features, batch.inputs["regions"].features)  # type: ignore[union-attr]
    assert torch.equal(batch.inputs["image"], joint_toy.pixels())


def test_weights_and_a_plain_sum() -> None:
    joint = joint_toy.objectives({"kind": "supervised", "weight": 2.0}, {"kind": "masked_text", "weight": 0.5})
    result = joint(joint_toy.step(joint_toy.model(joint).eval()))
    expected = 2 * result.log["supervised"] + 0.5 * result.log["masked_text"]
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_seed_repeats_a_step_and_another_does_not() -> None:
    joint, model, batch = everything()

    def loss(seed: int) -> Tensor:
        torch.manual_seed(0)
        result: StepResult = joint(joint_toy.step(model, batch, seed))
        return result.loss

    assert torch.equal(loss(1), loss(1))
    assert not torch.equal(loss(1), loss(2))


def test_dropped_inputs_are_not_asked_about() -> None:
    joint = joint_toy.objectives(*(one for one in ALL if one["kind"] != "masked_regions"))
    model = joint_toy.model(joint, input_dropout=0.9).train()
    for seed in range(4):
        torch.manual_seed(seed)
        result = joint(joint_toy.step(model, seed=seed))
        assert torch.isfinite(result.loss)
        result.loss.backward()


@settings(deadline=None, max_examples=12)
@drawn(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=6, max_size=6))
def test_whatever_is_missing_all_numbers_are_finite(there: list[list[bool]]) -> None:
    """Any inputs of any rows, and any labels; what stands in their place is not a number."""
    joint, model, batch = everything()
    image, text, regions, sick, kind = torch.tensor(there).unbind(1)
    pixels, found, labels = joint_toy.pixels(), joint_toy.regions(), batch.targets["sick"].clone()
    pixels[~image], found.features[~regions], labels[~sick] = torch.nan, torch.nan, torch.nan
    given = batch._replace(
        inputs={**batch.inputs, "image": pixels, "regions": found},
        present={"image": image, "text": text, "regions": regions},
        targets={**batch.targets, "sick": labels},
        known={"sick": sick, "kind": kind},
    )
    result = joint(joint_toy.step(model, given))
    result.loss.backward()
    assert all(torch.isfinite(value).all() for value in [result.loss, *result.log.values()])
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


def test_an_objective_alone_can_be_stepped() -> None:
    joint = joint_toy.objectives({"kind": "masked_text", "rate": 0.3})
    model = joint_toy.model(joint).eval()
    objective: Any = joint.objectives[0]
    alone = objective.step(joint_toy.step(model))
    assert torch.equal(alone.loss, joint(joint_toy.step(model)).loss)


def test_a_head_that_the_model_has_stays_as_it_is() -> None:
    joint = joint_toy.objectives({"kind": "matching"}, {"kind": "contrastive", "width": 8})
    own = {"matching": {"kind": "matching", "outputs": 1}, "contrastive": {"kind": "contrastive", "width": 4}}
    model = joint_toy.model(joint, pretraining=own)
    assert model.pretraining["matching"].out_features == 1
    assert model.config.pretraining["contrastive"].width == 4  # type: ignore[union-attr]
    assert torch.isfinite(joint(joint_toy.step(model)).loss)


def test_a_head_of_the_model_that_does_not_fit() -> None:
    joint = joint_toy.objectives({"kind": "masked_text", "head": "mine"})
    with pytest.raises(ConfigError, match='head "mine" must have kind masked_text, input text, got kind matching'):
        joint_toy.model(joint, pretraining={"mine": {"kind": "matching"}})
    known = joint_toy.features(regions=True, classes=7)
    joint = joint_toy.objectives({"kind": "masked_regions"}, known=known)
    more = {"kind": "masked_regions", "outputs": {"classes": 7, "attributes": 3}}
    model = joint_toy.model(joint, known, pretraining={"masked_regions": more})
    assert len(model.pretraining["masked_regions"].decoders) == 2  # type: ignore[arg-type]
    fewer = {"kind": "masked_regions", "outputs": {"classes": 6}}
    with pytest.raises(ConfigError, match=r"must have kind masked_regions, input regions, classes 7, got .* classes 6"):
        joint_toy.model(joint, known, pretraining={"masked_regions": fewer})


def test_two_of_a_kind_need_two_names() -> None:
    with pytest.raises(ConfigError, match='"masked_text" is there twice; give one of them another `head`'):
        joint_toy.objectives({"kind": "masked_text"}, {"kind": "masked_text"})
    joint = joint_toy.objectives({"kind": "masked_text"}, {"kind": "masked_text", "head": "again", "whole_words": True})
    model = joint_toy.model(joint)
    assert {"masked_text", "again"} <= set(joint(joint_toy.step(model)).log)
