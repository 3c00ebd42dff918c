from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal.errors import ConfigError, ShapeError
from polymodal.fusion.spatial import SpatialConfig
from polymodal.types import Tokens
from tests.fusion.small import built, here

WIDTHS = {"camera": 3, "radar": 2}


def grid(side: int, width: int, leading: int = 0) -> Tokens:
    places = side * side + leading
    sequence = torch.randn(2, places, width, generator=torch.Generator().manual_seed(side))
    return Tokens(sequence, torch.ones(2, places).bool(), torch.zeros(2, width))


def projected(fusion: Any, name: str, one: Tokens, side: int) -> Tensor:
    x: Tensor = fusion.project.linears[name](one.sequence)
    grid: Tensor = x.transpose(1, 2).unflatten(2, (side, side))
    return grid


@torch.no_grad()
def test_a_gate_says_for_each_place_how_much_of_each_input_is_taken() -> None:
    fusion, _ = built(SpatialConfig(join="gate", grid=3, width=4), WIDTHS)
    given = {"camera": grid(3, 3), "radar": grid(3, 2)}
    fused = fusion(given, here(given), maps=True)
    maps = {name: projected(fusion, name, one, 3) for name, one in given.items()}
    scores = fusion.mix(torch.cat(list(maps.values()), 1))
    gate = (scores[:, 0] - scores[:, 1]).sigmoid()  # of two inputs: s and 1 - s
    torch.testing.assert_close(fused.maps["gates"], torch.stack([gate, 1 - gate], 1))
    joint = gate[:, None] * maps["camera"] + (1 - gate[:, None]) * maps["radar"]
    torch.testing.assert_close(fused.tokens["radar"].sequence, joint.flatten(2).transpose(1, 2))
    torch.testing.assert_close(fused.pooled, joint.mean((2, 3)))


@torch.no_grad()
def test_without_one_input_the_gate_gives_the_other() -> None:
    fusion, _ = built(SpatialConfig(join="gate", grid=3, width=4), WIDTHS)
    given = {"camera": grid(3, 3), "radar": grid(3, 2)}
    alone = fusion(given, here(given, {"radar": [0, 1]})).pooled
    torch.testing.assert_close(alone, projected(fusion, "camera", given["camera"], 3).mean((2, 3)))


@torch.no_grad()
def test_a_change_at_one_place_shows_near_that_place_only() -> None:
    fusion, _ = built(SpatialConfig(grid=7, width=4), WIDTHS)
    given = {"camera": grid(7, 3), "radar": grid(7, 2)}
    changed = given["radar"].sequence.clone()
    changed[:, 0] += 1  # the corner; two convolutions of 3 reach two places far
    other = given | {"radar": given["radar"]._replace(sequence=changed)}
    sequences = [fusion(one, here(one)).tokens["camera"].sequence for one in (given, other)]
    moved = (sequences[0] - sequences[1]).abs().sum(-1).unflatten(1, (7, 7)) > 1e-6
    assert moved[:, :3, :3].all()
    assert not moved[:, 3:].any()
    assert not moved[:, :, 3:].any()


@pytest.mark.parametrize(("side", "rows"), [(2, [0.0, 0.25, 0.75, 1.0]), (8, [0.0, 0.25, 0.75, 1.0])])
@torch.no_grad()
def test_maps_of_other_sizes_are_resampled(side: int, rows: list[float]) -> None:
    fusion, _ = built(SpatialConfig(grid=4, width=2), {"camera": 2, "radar": 2})
    fusion.project.linears["camera"].weight.copy_(torch.eye(2))
    fusion.project.linears["camera"].bias.zero_()
    heights = torch.tensor([0.0, 1.0] if side == 2 else [0, 0, 0.25, 0.25, 0.75, 0.75, 1, 1])
    sequence = heights.repeat_interleave(side)[None, :, None].expand(1, -1, 2)
    one = Tokens(sequence, torch.ones(1, side * side).bool(), torch.zeros(1, 2))
    got = fusion._grid("camera", one, sequence, torch.tensor([True]))
    torch.testing.assert_close(got[0, 1], torch.tensor(rows)[:, None].expand(4, 4))


@torch.no_grad()
def test_leading_tokens_are_left_out() -> None:
    fusion, _ = built(SpatialConfig(grid=3, width=4, leading={"camera": 1}), WIDTHS)
    given = {"camera": grid(3, 3, leading=1), "radar": grid(3, 2)}
    noise = given["camera"].sequence.clone()
    noise[:, 0] = 9
    other = given | {"camera": given["camera"]._replace(sequence=noise)}
    assert torch.equal(fusion(given, here(given)).pooled, fusion(other, here(other)).pooled)


def test_tokens_that_are_no_grid_are_refused() -> None:
    given = {"camera": grid(3, 3, leading=1), "radar": grid(3, 2)}
    said = 'fusion "spatial": tokens of "camera" must be a square grid, got 10, 0 of them leading; a class token'
    fusion = SpatialConfig(width=4).build(WIDTHS)
    with pytest.raises(ShapeError, match=said):
        fusion(given, here(given))


def test_settings_that_name_no_input_and_single_inputs_are_refused() -> None:
    with pytest.raises(ConfigError, match='fusion "spatial": leading must be one of camera, radar, got "lidar"'):
        SpatialConfig(leading={"lidar": 1}).build(WIDTHS)
    with pytest.raises(ConfigError, match='fusion "spatial" must have at least 2 inputs, got camera'):
        SpatialConfig().build({"camera": 3})
    with pytest.raises(ConfigError, match=r"leading.camera: .* greater than or equal to 0"):
        SpatialConfig.parse({"leading": {"camera": -1}}, "fusion")
