"""Regions: both styles in plain floats, the global region, cells of a grid, boxes that are none."""

from math import fsum, nan, sqrt
from typing import Any

import pytest
import torch

from polymodal.encoders import GridRegionsConfig, RegionsConfig
from polymodal.encoders.regions import cell_boxes, grid_size
from polymodal.errors import ShapeError
from polymodal.types import Regions

FEATURES = 3


def config(**changes: Any) -> RegionsConfig:
    sizes = {"feature_width": FEATURES, "width": 8, "heads": 2, "dropout": 0.0}
    return RegionsConfig.parse(sizes | changes, "test")


def built(config: Any) -> Any:
    torch.manual_seed(4)
    model = config.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def regions() -> Regions:
    features = torch.randn(2, 3, FEATURES, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[[0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 1.0, 1.0], [0.3, 0.3, 0.4, 0.4]]]).repeat(2, 1, 1)
    return Regions(features, boxes, torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool))


def linear(layer: Any, x: list[float]) -> list[float]:
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [fsum(w * v for w, v in zip(weights, x, strict=True)) + bias for weights, bias in rows]


def norm(layer: Any, x: list[float]) -> list[float]:
    mean = fsum(x) / len(x)
    spread = sqrt(fsum((v - mean) ** 2 for v in x) / len(x) + 1e-12)
    return [(v - mean) / spread * g + b for v, g, b in zip(x, layer.weight.tolist(), layer.bias.tolist(), strict=True)]


@torch.no_grad()
def test_vilberts_sum_in_plain_floats() -> None:
    model, given = built(config(style="sum")), regions()
    x1, y1, x2, y2 = given.boxes[0, 0].tolist()
    box = linear(model.embedding.box, [x1, y1, x2, y2, (x2 - x1) * (y2 - y1)])
    both = [f + b for f, b in zip(linear(model.embedding.feature, given.features[0, 0].tolist()), box, strict=True)]
    expected = norm(model.embedding.norm, both)
    torch.testing.assert_close(model(given).sequence[0, 0], torch.tensor(expected), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_lxmerts_mean_in_plain_floats() -> None:
    model, given = built(config(style="mean")), regions()
    feature = norm(model.embedding.feature_norm, linear(model.embedding.feature, given.features[0, 0].tolist()))
    box = norm(model.embedding.box_norm, linear(model.embedding.box, given.boxes[0, 0].tolist()))
    expected = [(f + b) / 2 for f, b in zip(feature, box, strict=True)]
    torch.testing.assert_close(model(given).sequence[0, 0], torch.tensor(expected), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_global_region_is_the_mean_of_the_real_ones_in_the_whole_picture() -> None:
    given = regions()
    tokens = built(config(global_region=True, pool="first"))(given)
    mean = (given.features[1, 0] + given.features[1, 1]) / 2  # the third is masked
    whole = Regions(mean[None, None], torch.tensor([[[0.0, 0, 1, 1]]]), torch.ones(1, 1, dtype=torch.bool))
    alone = built(config())(whole)
    torch.testing.assert_close(tokens.sequence[1, 0], alone.sequence[0, 0])
    assert torch.equal(tokens.pooled, tokens.sequence[:, 0])
    assert tokens.mask.tolist() == [[True] * 4, [True, True, True, False]]


def spoiled(box: list[float]) -> Regions:
    given = regions()
    given.boxes[1, 1] = torch.tensor(box)
    return given


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ([0.0, 0.0, 1.2, 1.0], "0, 0, 1.2, 1"),
        ([-0.1, 0.0, 1.0, 1.0], "-0.1, 0, 1, 1"),
        ([0.5, 0.0, 0.4, 1.0], "0.5, 0, 0.4, 1"),
        ([0.0, 0.7, 0.4, 0.6], "0, 0.7, 0.4, 0.6"),
        ([10.0, 20.0, 300.0, 200.0], "10, 20, 300, 200"),
        ([nan, 0.0, 1.0, 1.0], "nan, 0, 1, 1"),
    ],
)
def test_a_box_that_is_no_part_of_the_picture_is_refused(box: list[float], shown: str) -> None:
    wanted = (
        rf"boxes must be x1, y1, x2, y2 from 0 to 1 with x1 <= x2 and y1 <= y2, got \({shown}\) at region 1 of row 1 "
        r"\(1 such boxes\); divide x by the picture's width, y by its height"
    )
    with pytest.raises(ShapeError, match=wanted):
        built(config())(spoiled(box))


@torch.no_grad()
def test_rounding_beyond_the_border_and_boxes_without_area_pass() -> None:
    model = built(config())
    for box in ([0.0, 0.0, 1.0005, 1.0], [0.5, 0.5, 0.5, 0.5]):
        assert torch.isfinite(model(spoiled(box)).pooled).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    model, given = built(config()), regions()
    with pytest.raises(
        ShapeError, match="wanted features of width 3, got 5; set feature_width=5, or give the features"
    ):
        model(given._replace(features=torch.zeros(2, 3, 5)))
    with pytest.raises(ShapeError, match=r"wanted boxes \(B, R, 4\).* with R = 3 as in the mask, got \(2, 3, 5\) and"):
        model(given._replace(boxes=torch.zeros(2, 3, 5)))
    with pytest.raises(ShapeError, match=r"got \(2, 3, 4\) and \(2, 4, 3\)"):
        model(given._replace(features=torch.zeros(2, 4, 3)))


BACKBONES: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "patch_size": 16, "width": 8, "layers": 1, "heads": 2},
    "clip_resnet": {"image_size": 64, "layers": (1, 1, 1, 1), "stem": 4, "width": 8},
    "resnet": {"image_size": 64, "layers": (1, 1, 1, 1), "stem": 4},
    "efficientnet_lite": {
        "image_size": 64, "width_multiplier": 0.2, "depth_multiplier": 0.5, "head_width": 16, "pool": "levels"
    },
}  # fmt: skip


def grid_config(kind: str, **changes: Any) -> GridRegionsConfig:
    sizes = {"backbone": {"kind": kind} | BACKBONES[kind], "width": 8, "heads": 2, "dropout": 0.0}
    return GridRegionsConfig.parse(sizes | changes, "test")


@pytest.mark.parametrize("kind", BACKBONES)
@torch.no_grad()
def test_cells_are_the_backbones_places_in_their_boxes(kind: str) -> None:
    model = built(grid_config(kind))
    side = 16 if kind == "vit" else 32
    pixels = torch.randn(2, 3, 2 * side, 3 * side, generator=torch.Generator().manual_seed(1))
    cells = model.cells(pixels)
    sequence = model.backbone(pixels).sequence
    assert torch.equal(cells.features, sequence[:, 1:] if kind == "vit" else sequence)  # no class token
    assert cells.boxes[1, 4].tolist() == pytest.approx([1 / 3, 1 / 2, 2 / 3, 1])  # second row, second column
    assert torch.equal(model(pixels).sequence, model.regions(cells).sequence)
    assert model(pixels).sequence.shape == (2, 6, 8)


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize(("height", "width"), [(70, 100), (127, 64), (65, 65)])
@torch.no_grad()
def test_other_sizes_find_their_grid(kind: str, height: int, width: int) -> None:
    assert torch.isfinite(built(grid_config(kind))(torch.randn(1, 3, height, width)).pooled).all()


def test_cells_tile_the_picture() -> None:
    boxes = cell_boxes(2, 3)
    assert boxes.tolist()[0] == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert boxes.tolist()[5] == pytest.approx([2 / 3, 1 / 2, 1, 1])
    assert ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum().item() == pytest.approx(1)


def test_a_grid_that_is_none_is_refused() -> None:
    backbone = grid_config("resnet").backbone
    assert grid_size(backbone, 64, 96, 6) == (2, 3)
    assert grid_size(backbone, 65, 96, 9) == (3, 3)
    with pytest.raises(ShapeError, match="64 x 96 pixels gave 7 cells, which are no whole cells of 32 pixels; set"):
        grid_size(backbone, 64, 96, 7)
