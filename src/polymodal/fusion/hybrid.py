"""Hybrid fusion: an early and a late branch, and a learned share of each.

Shapes: B rows; D width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.fusion.early import EarlyConfig
from polymodal.fusion.late import LateConfig
from polymodal.types import Fused, Tokens


class HybridConfig(Config):
    """σ(θ) early + (1 - σ(θ)) late, starting at halves. As wide as the early branch."""

    kind: Literal["hybrid"] = "hybrid"
    early: EarlyConfig = EarlyConfig(width=256, layers=2, heads=4)
    late: LateConfig = LateConfig()

    def build(self, widths: Mapping[str, int]) -> "Hybrid":
        return Hybrid(self, widths)


class Hybrid(nn.Module):
    def __init__(self, config: HybridConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.early, self.late = config.early.build(widths), config.late.build(widths)
        same = self.late.width == self.early.width
        self.fit = nn.Identity() if same else nn.Linear(self.late.width, self.early.width)
        self.theta = nn.Parameter(torch.zeros(()))
        self.width, self.widths = self.early.width, self.early.widths

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """Maps "share": (B,), of the early branch, 0 to 1; and those of the branches, "early.<map>", "late.<map>"."""
        early, late = (branch(tokens, present, maps=maps) for branch in (self.early, self.late))
        share = self.theta.sigmoid()
        pooled = share * early.pooled + (1 - share) * self.fit(late.pooled)
        if not maps:
            return Fused(pooled, early.tokens, {})
        inner = {
            f"{name}.{key}": seen
            for name, part in (("early", early), ("late", late))
            for key, seen in part.maps.items()
        }
        return Fused(pooled, early.tokens, {"share": share.expand(len(pooled))} | inner)
