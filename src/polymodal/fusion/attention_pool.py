"""A learned query looks at the inputs' vectors and takes their weighted sum.

Weights softmax_m(q · K P_m x_m / √D) over the inputs that a row has. Only the weights depend on the other inputs, so
this chooses between inputs rather than combining them.

Shapes: B rows; M inputs; D width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.fusion.project import Project, presence
from polymodal.types import Fused, Tokens


class AttentionPoolConfig(Config):
    kind: Literal["attention_pool"] = "attention_pool"
    width: int = Field(256, ge=1, le=2**16)

    def build(self, widths: Mapping[str, int]) -> "AttentionPoolFusion":
        return AttentionPoolFusion(self, widths)


class AttentionPoolFusion(nn.Module):
    def __init__(self, config: AttentionPoolConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.width, self.widths = config.width, dict(widths)
        self.project = Project(widths, config.width)
        self.key = nn.Linear(config.width, config.width, bias=False)  # a bias would move all scores alike
        self.query = nn.Parameter(torch.empty(config.width))
        nn.init.normal_(self.query)  # scores of unit size for keys of unit size

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """Map "weights": (B, M), adding up to 1 in each row."""
        vectors = self.project.vectors(tokens)
        scores = self.key(vectors) @ self.query * self.width**-0.5
        weights = scores.masked_fill(~presence(present), -torch.inf).softmax(1)
        pooled = (weights[:, :, None] * vectors).sum(1)
        return Fused(pooled, dict(tokens), {"weights": weights} if maps else {})
