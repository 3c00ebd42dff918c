"""Masked regions: what is hidden and how often, and the losses in plain floats."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from polymodal.errors import ConfigError, ShapeError
from polymodal.objectives.masked_regions import region_classes_loss, region_features_loss
from polymodal.types import Batch, Regions
from tests import tiny
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
    with pytest.raises(
        ConfigError, match='"image" is read by vit, which has no regions; give it an encoder of kind grid_regions'
    ):
        objective(input="image")
    with pytest.raises(ConfigError, match='"text" is no input of regions or pictures'):
        objective(input="text")
    with pytest.raises(ConfigError, match='"regions" has no classes of a detector; set predicts: features'):
        objective(predicts="classes")
    joint, model = objective(classes=7, rate=0.9)
    with pytest.raises(ShapeError, match="came without the detector's classes"):
        joint(joint_toy.step(model, given()))


def grid() -> tuple[Any, Any]:
    """Pictures whose regions are the cells of a small network: 2 x 2 of them at 64 pixels."""
    joint = joint_toy.objectives(KIND | {"input": "image", "rate": 0.5})
    backbone = {"kind": "resnet", "block": "basic", "layers": [1, 1, 1, 1], "stem": 2, "image_size": 64}
    image = {"kind": "grid_regions", "backbone": backbone, "width": 16, "heads": 2, "global_region": True}
    encoders = {"image": image, "text": tiny.bert_config(vocab_size=300).to_dict()}
    return joint, joint_toy.model(joint, encoders=encoders).eval()


def test_of_pictures_the_cells_are_hidden_and_found_again() -> None:
    joint, model = grid()
    pixels = torch.randn(joint_toy.ROWS, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    step = joint_toy.step(model, joint_toy.batch(inputs={"image": pixels}))
    places = step.prepare(joint.objectives[0])
    cells = model.encoders["image"].cells(pixels)
    assert cells.features.shape == (joint_toy.ROWS, 4, 16)
    after = step.hidden["image"]
    assert isinstance(after, Regions)
    zeroed = (after.features == 0).all(-1)
    assert places.any()
    assert not (zeroed & ~places).any()
    torch.testing.assert_close(after.features[~zeroed], cells.features[~zeroed])

    found = joint(step).loss
    head = model.pretraining["masked_regions"]
    states = step.masked.fused.tokens["image"].sequence[:, 1:][places]
    wanted = mse_loss(head(states)["features"], cells.features[places])
    torch.testing.assert_close(found, wanted)


def test_cells_that_were_found_before_are_as_good_as_pixels() -> None:
    joint, model = grid()
    pixels = torch.randn(joint_toy.ROWS, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    losses = [
        joint(joint_toy.step(model, joint_toy.batch(inputs={"image": given}))).loss
        for given in (pixels, model.encoders["image"].cells(pixels))
    ]
    torch.testing.assert_close(losses[0], losses[1])


def test_no_pixels_are_left_to_hide_where_cells_are_hidden() -> None:
    both = [KIND | {"input": "image"}, {"kind": "masked_image"}]
    joint = joint_toy.objectives(*both)
    _, model = grid()
    model.pretraining["masked_image"] = model.pretraining["masked_regions"]
    step = joint_toy.step(model, joint_toy.batch(inputs={"image": torch.zeros(joint_toy.ROWS, 3, 64, 64)}))
    with pytest.raises(ConfigError, match=r'of "image" another objective hides the cells.*leave one of them out'):
        joint(step)
