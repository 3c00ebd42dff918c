"""One-way cross-attention: the tokens of one input look at those of all others; the others stay as they are.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3, in pre-norm blocks.
Shapes: B rows; L tokens of the input that asks; S tokens of another; D width; H heads.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from polymodal.config import Config
from polymodal.fusion.project import Project, at_least_two, known_input
from polymodal.layers.attention import CrossAttention, key_mask
from polymodal.layers.mlp import Activation, Mlp
from polymodal.layers.pooling import masked_mean
from polymodal.types import Fused, Tokens


class CrossAttentionConfig(Config):
    kind: Literal["cross_attention"] = "cross_attention"
    query: str | None = None  # the input that asks; None: the first
    width: int = Field(256, ge=1, le=2**16)
    layers: int = Field(2, ge=1, le=1000)
    heads: int = Field(4, ge=1)
    mlp_width: int | None = None  # None: 4 x width
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> "CrossAttentionConfig":
        check_heads("width", self.width, self.heads)
        return self

    def build(self, widths: Mapping[str, int]) -> "CrossAttentionFusion":
        return CrossAttentionFusion(self, widths)


class CrossAttentionFusion(nn.Module):
    """The joint state is the mean of the asking input's states."""

    def __init__(self, config: CrossAttentionConfig, widths: Mapping[str, int]) -> None:
        """Raises ConfigError: fewer than two inputs, or `query` is none of them."""
        super().__init__()
        at_least_two("cross_attention", widths)
        self.config = config
        self.query = config.query or next(iter(widths))
        known_input("cross_attention", "query", self.query, widths)
        self.width, self.widths = config.width, dict(widths) | {self.query: config.width}
        self.project = Project(widths, config.width)
        mlp_width = config.mlp_width or 4 * config.width
        self.encoder = CrossEncoder(config.layers, config.width, config.heads, mlp_width, "gelu", config.dropout)

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """Maps, for inputs text (which asks), image, sound and layer i: "text->image.i", "text->sound.i" (B, H, L, S).

        How much each token of the text looks at each of the other; all others together add up to 1.
        """
        sequences = self.project.sequences(tokens)
        x, own = sequences.pop(self.query), tokens[self.query].mask
        seen = torch.cat(list(sequences.values()), 1)
        keys = key_mask(torch.cat([tokens[name].mask for name in sequences], 1))
        x, seen_by_layer = self.encoder(x, seen, keys, maps)
        lengths = [sequence.shape[1] for sequence in sequences.values()]
        looks = {
            f"{self.query}->{name}.{number}": part
            for number, weights in enumerate(seen_by_layer)
            for name, part in zip(sequences, weights.split(lengths, -1), strict=True)
        }
        pooled = masked_mean(x, own)
        states = dict(tokens) | {self.query: Tokens(x, own, pooled)}
        return Fused(pooled, states, looks)


class CrossEncoder(nn.Module):
    """Blocks that look at one and the same sequence, and a LayerNorm behind; `checkpoint` as that of `Transformer`."""

    def __init__(self, layers: int, width: int, heads: int, mlp_width: int, act: Activation, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CrossBlock(width, heads, mlp_width, act, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.checkpoint = False

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor, maps: bool) -> tuple[Tensor, list[Tensor]]:
        """(B, L, D), and with `maps` who looks at what in each layer, (B, H, L, S)."""
        looks = []
        for block in self.blocks:
            assert isinstance(block, CrossBlock)
            if maps:
                looks.append(block.weights(x, seen, mask))
            if self.checkpoint and torch.is_grad_enabled():
                x = recompute(block, x, seen, mask, use_reentrant=False)
            else:
                x = block(x, seen, mask)
        return self.norm(x), looks


class CrossBlock(nn.Module):
    """Pre-norm: x + attention(norm(x), norm(seen)), then x + mlp(norm(x)).

    One LayerNorm serves both sides of the attention, as in MulT, so that what is seen may come from anywhere.
    """

    def __init__(self, width: int, heads: int, mlp_width: int, act: Activation, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, mlp_width, act)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D); the mask broadcasts to (B, H, L, S), True where a token may look."""
        x = x + self.dropout(self.attention(self.norm1(x), self.norm1(seen), mask))
        out: Tensor = x + self.dropout(self.mlp(self.norm2(x)))
        return out

    def weights(self, x: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        """Who looks at what, (B, H, L, S)."""
        return self.attention.weights(self.norm1(x), self.norm1(seen), mask)


def check_heads(field: str, width: int, heads: int) -> None:
    """Raises ValueError, for validators of configs."""
    if width % heads:
        raise ValueError(f"{field} must be a multiple of heads ({heads}), got {width}")
