"""Tensor fusion: every product of a feature of each input, and through the ones every product of fewer.

Source: Zadeh et al. 2017, arXiv:1707.07250, section 4.2 (TFN): z = ⊗_m [1; x_m], then an MLP. Without the MLP (`hidden`
none) and with two inputs y = W z is the bilinear form x_1ᵀ W x_2 + U x_1 + V x_2 + b.

Shapes: B rows; d inner width; Z = (d + 1)^M products; D width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.errors import ConfigError
from polymodal.fusion.project import Project
from polymodal.types import Fused, Tokens

MAX_PRODUCTS = 2**16


class TensorConfig(Config):
    kind: Literal["tensor"] = "tensor"
    inner: int = Field(16, ge=1)  # width to which each input is projected before the products are taken
    hidden: int | None = Field(128, ge=1)  # of the MLP behind; None: one linear layer
    width: int = Field(128, ge=1, le=2**16)

    def build(self, widths: Mapping[str, int]) -> "TensorFusion":
        return TensorFusion(self, widths)


class TensorFusion(nn.Module):
    def __init__(self, config: TensorConfig, widths: Mapping[str, int]) -> None:
        """Raises ConfigError: there would be more than `MAX_PRODUCTS` products."""
        super().__init__()
        products = (config.inner + 1) ** len(widths)
        if products > MAX_PRODUCTS:
            largest = _largest_inner(len(widths))
            smaller = f"set inner to at most {largest}, or " if largest else ""
            raise ConfigError(
                f'fusion "tensor": inner must give at most {MAX_PRODUCTS} products, got ({config.inner} + 1)^'
                f'{len(widths)} = {products}; {smaller}take "low_rank", which never writes them out'
            )
        self.config = config
        self.width, self.widths = config.width, dict(widths)
        self.project = Project(widths, config.inner)
        hidden = config.hidden
        self.read = (
            nn.Linear(products, config.width)
            if hidden is None
            else nn.Sequential(nn.Linear(products, hidden), nn.GELU(), nn.Linear(hidden, config.width))
        )

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """There is no map: nothing here weighs."""
        return Fused(self.read(outer_product(self.project.vectors(tokens).unbind(1))), dict(tokens), {})


def outer_product(vectors: tuple[Tensor, ...]) -> Tensor:
    """⊗_m [1; x_m], flattened with the last input fastest: (B, Π(d_m + 1)) of (B, d_m)."""
    product = vectors[0].new_ones(vectors[0].shape[0], 1)
    for vector in vectors:
        product = (product[:, :, None] * with_one(vector)[:, None, :]).flatten(1)
    return product


def with_one(vector: Tensor) -> Tensor:
    """[1; x]: (B, d + 1) of (B, d)."""
    return torch.cat([vector.new_ones(vector.shape[0], 1), vector], 1)


def _largest_inner(inputs: int) -> int:
    inner = 0
    while (inner + 2) ** inputs <= MAX_PRODUCTS:
        inner += 1
    return inner
