"""Spatial fusion: feature maps of several inputs laid on one grid, place on place.

Two ways. "concat": all channels side by side, then two convolutions. "gate": one convolution reads all channels and
says for each place how much of each input is taken, Y = Σ s_m X_m with s a softmax over inputs (of two: a sigmoid). A
gate chooses between inputs, and one can see what; where only both together hold the answer (an XOR), take "concat".
Maps of another size are resampled, larger ones by means, smaller ones bilinearly, which holds where all inputs show the
same view; sensors whose geometry differs (a camera and a bird's-eye radar) must be brought into one view before.

Shapes: B rows; M inputs; g side of the grid; L = g_m² (+ leading) tokens of an input, row by row; D width.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn
from torch.nn.functional import interpolate

from polymodal.config import Config
from polymodal.errors import ShapeError
from polymodal.fusion.project import Project, at_least_two, known_input, presence
from polymodal.types import Fused, Tokens


class SpatialConfig(Config):
    kind: Literal["spatial"] = "spatial"
    join: Literal["concat", "gate"] = "concat"
    grid: int = Field(7, ge=1, le=1024)  # side of the common grid
    leading: dict[str, NonNegativeInt] = Field(
        default_factory=dict
    )  # by input: tokens in front of the grid (a class token: 1)
    width: int = Field(256, ge=1, le=2**16)

    def build(self, widths: Mapping[str, int]) -> "Spatial":
        return Spatial(self, widths)


class Spatial(nn.Module):
    """Every input's states after the fusion are the joint map, g² tokens row by row; `pooled` is its mean."""

    def __init__(self, config: SpatialConfig, widths: Mapping[str, int]) -> None:
        """Raises ConfigError: fewer than two inputs, or `leading` names another one."""
        super().__init__()
        at_least_two("spatial", widths)
        for name in config.leading:
            known_input("spatial", "leading", name, widths)
        self.config = config
        self.width, self.widths = config.width, dict.fromkeys(widths, config.width)
        self.project = Project(widths, config.width)
        channels = len(widths) * config.width
        self.mix: nn.Module
        if config.join == "gate":
            self.mix = nn.Conv2d(channels, len(widths), 3, padding=1)
        else:
            self.mix = nn.Sequential(
                nn.Conv2d(channels, config.width, 3, padding=1),
                nn.GELU(),
                nn.Conv2d(config.width, config.width, 3, padding=1),
            )

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """Map "gates": (B, M, g, g), adding up to 1 at each place; "concat" has none.

        Raises:
            ShapeError: an input's tokens are not a square grid.
        """
        grids = torch.stack(
            [self._grid(name, tokens[name], x, present[name]) for name, x in self._projected(tokens)], 1
        )
        looks = {}
        if self.config.join == "gate":
            there = presence(present)[:, :, None, None]
            gates = self.mix(grids.flatten(1, 2)).masked_fill(~there, -torch.inf).softmax(1)
            joint = (gates[:, :, None] * grids).sum(1)
            looks = {"gates": gates} if maps else {}
        else:
            joint = self.mix(grids.flatten(1, 2))
        sequence = joint.flatten(2).transpose(1, 2)
        pooled = sequence.mean(1)
        mask = torch.ones(sequence.shape[:2], dtype=torch.bool, device=sequence.device)
        return Fused(pooled, dict.fromkeys(self.widths, Tokens(sequence, mask, pooled)), looks)

    def _projected(self, tokens: Mapping[str, Tokens]) -> list[tuple[str, Tensor]]:
        return list(self.project.sequences(tokens).items())

    def _grid(self, name: str, given: Tokens, sequence: Tensor, present: Tensor) -> Tensor:
        """(B, D, g, g); the learned token stands at every place of an absent input, 0 at masked places."""
        first = sequence[:, 0, :, None, None]  # of an absent row: the learned token
        if sequence.shape[1] == 1:  # a single place, or an input that no row has
            return first.expand(-1, -1, self.config.grid, self.config.grid)
        leading = self.config.leading.get(name, 0)
        places = sequence.shape[1] - leading
        side = math.isqrt(max(places, 0))
        if side * side != places or side == 0:
            raise ShapeError(
                f'fusion "spatial": tokens of "{name}" must be a square grid, got {sequence.shape[1]}, '
                f"{leading} of them leading; a class token in front is named by `leading`"
            )
        shown = sequence.masked_fill(~given.mask[:, :, None], 0)[:, leading:]
        grid = torch.where(present[:, None, None, None], shown.mT.unflatten(2, (side, side)), first)
        if side == self.config.grid:
            return grid
        size = (self.config.grid, self.config.grid)
        if side > self.config.grid:  # a mean, for bilinear would skip places; torch's antialiasing knows no bfloat16
            return interpolate(grid, size=size, mode="area")
        return interpolate(grid, size=size, mode="bilinear", align_corners=False)
