"""Mixtures of predictions against plain floats; an ensemble of one is that one; spaces side by side mix cosines."""

import math
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from polymodal.errors import ConfigError, ShapeError
from polymodal.features import Task
from polymodal.models.clip import Clip
from polymodal.models.ensemble import ClipEnsembleConfig, EnsembleConfig, mixed
from tests import tiny
from tests.models import test_absent as rows

row = st.lists(st.floats(-20, 20, width=32), min_size=3, max_size=3)


def shares(logits: list[float]) -> list[float]:
    powers = [math.exp(one) for one in logits]
    return [power / sum(powers) for power in powers]


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


@given(row, row, st.floats(0, 1))
def test_probabilities_are_the_weighted_mean_of_the_members(one: list[float], other: list[float], own: float) -> None:
    said = [torch.tensor([one], dtype=torch.float64), torch.tensor([other], dtype=torch.float64)]
    classes = mixed("multiclass", "probabilities", said, [own, 1 - own]).softmax(-1)[0].tolist()
    wanted = [own * a + (1 - own) * b for a, b in zip(shares(one), shares(other), strict=True)]
    assert classes == pytest.approx(wanted, abs=1e-9)
    for task in ("binary", "multilabel", "soft", "ordinal"):
        if task == "ordinal":  # thresholds that cross count as the lowest before them
            one, other = (list(accumulate(each, min)) for each in (one, other))
        labels = mixed(task, "probabilities", said, [own, 1 - own]).sigmoid()[0].tolist()
        assert labels == pytest.approx(
            [own * sigmoid(a) + (1 - own) * sigmoid(b) for a, b in zip(one, other, strict=True)], abs=1e-9
        )


def test_logits_and_values_are_averaged_as_they_are() -> None:
    said = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -2.0]])]
    for task in ("multiclass", "binary", "regression"):
        assert mixed(task, "logits", said, [0.25, 0.75]).tolist() == [[2.5, -1.0]]
    assert mixed("regression", "probabilities", said, [0.25, 0.75]).tolist() == [[2.5, -1.0]]


def test_a_member_of_no_weight_has_no_effect_however_sure_it_is() -> None:
    said = [torch.tensor([[1.0, 2.0]]), torch.tensor([[1e4, -1e4]])]
    alone = mixed("multiclass", "probabilities", said, [1.0, 0.0]).softmax(-1)
    torch.testing.assert_close(alone, said[0].softmax(-1))
    torch.testing.assert_close(mixed("multilabel", "probabilities", said, [1.0, 0.0]), said[0])


def ensemble_config(task: Task = "regression", **changes: object) -> EnsembleConfig:
    model = rows.model().config
    inputs = {"image": "image", "record": "record"}
    target = {"task": task, "weights": [0.25, 0.75], "factors": [1, 2], "offsets": [0, 0.5]}
    data = {"members": [{"model": model.to_dict(), "inputs": inputs}] * 2, "targets": {"price": target}}
    return EnsembleConfig.parse(data | changes, "ensemble")


def test_each_member_sees_its_own_inputs_and_outputs_are_brought_to_one_scale() -> None:
    first, second, given_ = rows.model().eval(), rows.model().eval(), rows.inputs()
    with torch.no_grad():
        for weight in second.parameters():
            weight.add_(0.1)
    config = ensemble_config()
    config = EnsembleConfig.parse(
        config.to_dict()
        | {
            "members": [
                config.members[0].to_dict(),
                {"model": second.config.to_dict(), "inputs": {"image": "image", "record": "other"}},
            ]
        },
        "ensemble",
    )
    whole = config.build().eval()
    whole.members[0].load_state_dict(first.state_dict())
    whole.members[1].load_state_dict(second.state_dict())
    present = rows.presence([False] * rows.ROWS)
    other = rows.inputs()["record"]
    out = whole(given_ | {"other": other}, present | {"other": present["record"]})
    one = first(given_, present).predictions["price"]
    two = second({"image": given_["image"], "record": other}, present).predictions["price"]
    torch.testing.assert_close(out.predictions["price"], 0.25 * one + 0.75 * (2 * two + 0.5))
    assert out.fused.pooled.shape == (rows.ROWS, 16)


def test_inputs_that_nobody_knows_are_refused() -> None:
    with pytest.raises(ShapeError, match="the model reads image, record; got sound"):
        ensemble_config().build()({"sound": torch.zeros(1, 2)})


def test_configs_that_do_not_fit_are_refused() -> None:
    target = {"task": "regression", "weights": [0.5, 0.6], "factors": [1, 1], "offsets": [0, 0]}
    with pytest.raises(
        ConfigError, match=r'weights of target "price" must be 2 numbers that sum to 1, got \[0.5, 0.6\]'
    ):
        ensemble_config(targets={"price": target})
    with pytest.raises(ConfigError, match='a member has no head for target "defect"'):
        ensemble_config(targets={"defect": target | {"weights": [0.5, 0.5]}})
    with pytest.raises(ConfigError, match="2 factors and offsets"):
        ensemble_config(targets={"price": target | {"weights": [0.5, 0.5], "factors": [1]}})


def cosines(model: Clip) -> Tensor:
    return model.embed_image(tiny.pixels().float() / 255) @ model.embed_text(tiny.text()).T


def test_cosines_of_spaces_side_by_side_are_the_weighted_mean_of_cosines() -> None:
    first = tiny.clip()
    second = tiny.clip_config(width=5).build().eval()
    config = ClipEnsembleConfig(members=(first.config, second.config), weights=(0.3, 0.7), temperature=0.05)
    whole = config.build().eval()
    for side in ("image", "text"):
        joined = getattr(whole, f"{side}_encoder")
        for nth, member in enumerate((first, second)):
            joined.towers[nth].load_state_dict(getattr(member, f"{side}_encoder").state_dict())
            joined.projections[nth].load_state_dict(getattr(member, f"{side}_projection").state_dict())
    out = whole(tiny.pixels().float() / 255, tiny.text())
    wanted = 0.3 * cosines(first) + 0.7 * cosines(second)
    torch.testing.assert_close(out.image @ out.text.T, wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out.image.norm(dim=-1), torch.ones(4))
    assert out.image.shape == (4, config.shared_width) == (4, 13)
    assert out.scale.item() == pytest.approx(20)
