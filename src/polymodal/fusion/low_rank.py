"""Low-rank tensor fusion: tensor fusion with one linear layer, whose weight is a sum of R outer products.

Source: Liu et al. 2018, arXiv:1806.00064, section 3.2 (LMF): y = Σ_r w_r Π_m ([1; x_m] F_m^(r)) + b, which equals
W · ⊗_m [1; x_m] + b for W = Σ_r w_r ⊗_m F_m^(r) without ever writing either out.

Shapes: B rows; M inputs; R rank; d_m width of an input; D width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.fusion.tensor import with_one
from polymodal.layers.named import module_name
from polymodal.types import Fused, Tokens


class LowRankConfig(Config):
    kind: Literal["low_rank"] = "low_rank"
    rank: int = Field(8, ge=1)
    width: int = Field(128, ge=1, le=2**16)

    def build(self, widths: Mapping[str, int]) -> "LowRank":
        return LowRank(self, widths)


class LowRank(nn.Module):
    def __init__(self, config: LowRankConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.width, self.widths = config.width, dict(widths)
        self.factors = nn.ParameterDict(
            {
                module_name(name): nn.Parameter(torch.empty(config.rank, given + 1, config.width))
                for name, given in widths.items()
            }
        )
        self.weight = nn.Parameter(torch.empty(1, config.rank))
        self.bias = nn.Parameter(torch.zeros(config.width))
        # Matrix by matrix. Over all R at once, as the authors' code draws them, the products of several would vanish.
        for factor in self.factors.values():
            for matrix in factor:
                nn.init.xavier_normal_(matrix)
        nn.init.xavier_normal_(self.weight)

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """There is no map: nothing here weighs."""
        product: Tensor | float = 1.0
        for name in self.widths:
            factor = self.factors[module_name(name)]
            product = product * torch.einsum("bi,rid->brd", with_one(tokens[name].pooled), factor)
        pooled = torch.einsum("r,brd->bd", self.weight[0], product) + self.bias
        return Fused(pooled, dict(tokens), {})
