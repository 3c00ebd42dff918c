"""Gated multimodal unit: for every feature a gate says from which input it comes.

Source: Arevalo et al. 2017, arXiv:1702.01992, section 3.1 (GMU). h_m = tanh(W_m x_m). Two inputs share one gate,
z = σ(W_z [x_1; x_2]), h = z h_1 + (1 - z) h_2; more have one each, z_m = σ(W_m^z [x_1; ...; x_M]), h = Σ z_m h_m, which
do not add up to 1. No biases. The gates read the inputs themselves, as the paper says; its code lets them read W_m x_m.

Shapes: B rows; M inputs; D width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.fusion.project import Project, at_least_two, presence
from polymodal.types import Fused, Tokens


class GatedConfig(Config):
    kind: Literal["gated"] = "gated"
    width: int = Field(256, ge=1, le=2**16)

    def build(self, widths: Mapping[str, int]) -> "Gated":
        return Gated(self, widths)


class Gated(nn.Module):
    def __init__(self, config: GatedConfig, widths: Mapping[str, int]) -> None:
        """Raises ConfigError: fewer than two inputs."""
        super().__init__()
        at_least_two("gated", widths)
        self.config = config
        self.width, self.widths = config.width, dict(widths)
        self.project = Project(widths, self.width, bias=False)
        self.tied = len(widths) == 2
        gates = 1 if self.tied else len(widths)
        self.gate = nn.Linear(sum(widths.values()), gates * self.width, bias=False)

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """Map "gates": (B, M, D), 0 to 1; 0 for an absent input, and 1 for the only one of two."""
        states = self.project.vectors(tokens).tanh()
        together = torch.cat([tokens[name].pooled for name in self.widths], 1)
        gates = self._gates(together, presence(present))
        return Fused((gates * states).sum(1), dict(tokens), {"gates": gates} if maps else {})

    def _gates(self, together: Tensor, there: Tensor) -> Tensor:
        gates = self.gate(together).sigmoid().unflatten(1, (-1, self.width))
        if self.tied:
            gates = torch.cat([gates, 1 - gates], 1)
            alone = there & (there.sum(1, keepdim=True) == 1)
            gates = gates.masked_fill(alone[:, :, None], 1.0)
        kept: Tensor = gates.masked_fill(~there[:, :, None], 0.0)
        return kept
