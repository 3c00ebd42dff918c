"""Late fusion: every input is read to its end on its own, and only the results meet.

Shapes: B rows; M inputs; D width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, FiniteFloat, model_validator
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.errors import ConfigError
from polymodal.fusion.project import Project, average_weights, presence
from polymodal.types import Fused, Tokens

Weights = Literal["mean", "fixed", "learned", "gated", "concat"]


class LateConfig(Config):
    """An average Σ a_m P_m x_m over the inputs that a row has, its weights a renormalized over them; or an MLP.

    With a linear head the average of projected features is the weighted average of per-input logits:
    W Σ a_m P_m x_m + b = Σ a_m (W P_m x_m + b), for the a_m add up to 1. So this is late fusion of predictions too.

    weights: "mean": equal; "fixed": `fixed`; "learned": softmax(θ), one θ an input; "gated": softmax of a linear map
    of all projected inputs, each row its own; "concat": no average but an MLP over [P_1 x_1; ...; P_M x_M], the only
    one of these in which inputs meet before the head.
    """

    kind: Literal["late"] = "late"
    weights: Weights = "learned"
    fixed: dict[str, FiniteFloat] = Field(
        default_factory=dict
    )  # by the input's name, at least 0; they need not add up to 1
    width: int = Field(256, ge=1, le=2**16)

    @model_validator(mode="after")
    def _fits(self) -> "LateConfig":
        if (self.weights == "fixed") != bool(self.fixed):
            raise ValueError('weights "fixed" and numbers in `fixed` go together: set both or none')
        if self.fixed and (min(self.fixed.values()) < 0 or sum(self.fixed.values()) <= 0):
            raise ValueError("fixed weights must be at least 0 and one of them above 0")
        return self

    def build(self, widths: Mapping[str, int]) -> "Late":
        return Late(self, widths)


class Late(nn.Module):
    def __init__(self, config: LateConfig, widths: Mapping[str, int]) -> None:
        """Raises ConfigError: fixed weights are given for other inputs than there are."""
        super().__init__()
        if config.weights == "fixed" and config.fixed.keys() != widths.keys():
            raise ConfigError(f'fusion "late": fixed must name {", ".join(widths)}, got {", ".join(config.fixed)}')
        self.config = config
        self.width, self.widths = config.width, dict(widths)
        self.project = Project(widths, config.width)
        together = len(widths) * config.width
        if config.weights == "learned":
            self.theta = nn.Parameter(torch.zeros(len(widths)))
        elif config.weights == "gated":
            self.gate = nn.Linear(together, len(widths))
        elif config.weights == "concat":
            self.mlp = nn.Sequential(nn.Linear(together, self.width), nn.GELU(), nn.Linear(self.width, self.width))

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """Map "weights": (B, M), adding up to 1 in each row; "concat" has none."""
        vectors = self.project.vectors(tokens)
        if self.config.weights == "concat":
            return Fused(self.mlp(vectors.flatten(1)), dict(tokens), {})
        weights = self._weights(vectors, presence(present))
        pooled = (weights[:, :, None] * vectors).sum(1)
        return Fused(pooled, dict(tokens), {"weights": weights} if maps else {})

    def _weights(self, vectors: Tensor, there: Tensor) -> Tensor:
        match self.config.weights:
            case "learned":
                return self.theta.expand(there.shape).masked_fill(~there, -torch.inf).softmax(1)
            case "gated":
                scores: Tensor = self.gate(vectors.flatten(1))
                return scores.masked_fill(~there, -torch.inf).softmax(1)
            case "fixed":
                given = vectors.new_tensor([self.config.fixed[name] for name in self.widths]) * there
                # A row may have only inputs whose weight is 0: then they count alike.
                return average_weights(torch.where(given.any(1, keepdim=True), given, there))
            case _:
                return average_weights(there.to(vectors.dtype))
