"""Masked regions: what is hidden and how often, and the losses in plain floats."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal.errors import ConfigError, ShapeError
from polymodal.objectives.masked_regions import region_classes_loss, region_features_loss
from polymodal.types import Batch, Regions
from tests.objectives import joint_toy

KIND = {"kind": "masked_regions"}


def given(rows: int = joint_toy.ROWS, count: int = 4, classes: int = 0, **changes: Any) -> Batch:
    batch = joint_toy.batch(inputs={"regions": joint_toy.regions(rows, count, classes)})
    return batch._replace(**changes)


def objective(classes: int = 0, **changes: Any) -> Any:
    known = joint_toy.features(regions=True, classes=classes)
    joint = joint_toy.objectives(KIND | changes, known=known)
    return joint, joint_toy.model(joint, known).eval()


def hidden(step: Any, joint: Any) -> tuple[Tensor, Regions, Regions]:
    return step.prepare(joint.objectives[0]), step.batch.inputs["regions"], step.hidden["regions"]


def test_kl_in_plain_floats() -> None:
    logits, classes = [[1.0, -1.0, 0.5], [0.0, 2.0, 0.0]], [[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]]
    total = 0.0
    for row, truth in zip(logits, classes, strict=True):
        norm = math.log(sum(map(math.exp, row)))
        total += sum(t * (math.log(t) - (x - norm)) for x, t in zip(row, truth, strict=True) if t)
    assert region_classes_loss(torch.tensor(logits), torch.tensor(classes)).item() == pytest.approx(total / 2, rel=1e-6)


def test_squared_error_in_plain_floats() -> None:
    found, truth = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, -1.0]])
    assert region_features_loss(found, truth).item() == pytest.approx((1 + 0 + 9 + 1) / 4)


def test_nothing_masked_is_no_loss() -> None:
    """The source divides by zero here."""
    nothing = torch.zeros(0, 3, requires_grad=True)
    for loss in (region_classes_loss(nothing, nothing.detach()), region_features_loss(nothing, nothing.detach())):
        assert loss.item() == 0
        loss.backward()


def test_shares_are_those_of_vilbert() -> None:
    joint, model = objective()
    rows, count = joint_toy.ROWS, 3000
    batch = given(rows, count)
    places, before, after = hidden(joint_toy.step(model, batch), joint)
    assert not (places & ~before.mask).any()
    assert (places.sum() / before.mask.sum()).item() == pytest.approx(0.15, abs=0.015)
    zeroed = (after.features == 0).all(-1)
    assert not (zeroed & ~places).any()
    assert zeroed[places].float().mean().item() == pytest.approx(0.9, abs=0.03)
    kept = places & ~zeroed
    assert torch.equal(after.features[kept], before.features[kept])
    assert torch.equal(after.boxes, before.boxes)


def test_the_global_region_in_front_is_not_asked_about() -> None:
    joint, model = objective(classes=7, rate=0.5)
    step = joint_toy.step(model, given(classes=7))
    result = joint(step)
    places, before, after = hidden(step, joint)
    states = model.fuse(*model.encode({**step.batch.inputs, "regions": after})).tokens["regions"].sequence
    assert states.shape[1] == 1 + places.shape[1]
    logits = model.pretraining["masked_regions"](states[:, 1:][places])["classes"]
    assert before.classes is not None
    expected = region_classes_loss(logits, before.classes[places])
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(result.log) == {"masked_regions", "masked_regions_accuracy"}


def test_features_are_found_again_where_there_are_no_classes() -> None:
    joint, model = objective(rate=0.5)
    assert model.pretraining["masked_regions"].decoders["features"].out_features == 5
    step = joint_toy.step(model, given())
    result = joint(step)
    assert result.loss.item() > 0
    result.loss.backward()


def test_absent_rows_are_not_asked_about() -> None:
    joint, model = objective(rate=0.9)
    batch = given()
    there = torch.tensor([True, False, True, False, False, True])
    broken = joint_toy.regions()
    broken.features[~there] = math.nan
    batch = batch._replace(inputs={**batch.inputs, "regions": broken}, present={**batch.present, "regions": there})
    step = joint_toy.step(model, batch)
    result = joint(step)
    assert not hidden(step, joint)[0][~there].any()
    assert torch.isfinite(result.loss)
    nobody = batch._replace(present={**batch.present, "regions": torch.zeros_like(there)})
    assert joint(joint_toy.step(model, nobody)).loss.item() == 0


def test_a_batch_without_the_input_is_no_loss() -> None:
    joint, model = objective()
    assert joint(joint_toy.step(model, joint_toy.batch())).loss.item() == 0


def test_what_cannot_be_asked_says_why() -> None:
    with pytest.raises(ConfigError, match='"image" is no input of regions; for pictures there is masked_image'):
        objective(input="image")
    with pytest.raises(ConfigError, match='"regions" has no classes of a detector; set predicts: features'):
        objective(predicts="classes")
    joint, model = objective(classes=7, rate=0.9)
    with pytest.raises(ShapeError, match="came without the detector's classes"):
        joint(joint_toy.step(model, given()))
