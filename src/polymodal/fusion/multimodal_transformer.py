"""Multimodal transformer (MulT): each input is retold by every other one, step by step, without being aligned first.

Source: Tsai et al. 2019, arXiv:1906.00295, section 3; its code, yaohungt/Multimodal-Transformer, for the details.
For each input ("target"): to width d; one cross-modal encoder from each other input ("source"), whose blocks let the
target's states look at the source as it came in, normalized anew by each block's LayerNorm; the results side by side
through a self-attention encoder; the state at the last step. All of them side by side through a residual block.

Three things differ from that code. Positions are the places themselves: there, every step whose first feature is
exactly 0 counts as padding. Padding is masked: there, it is not. And `causal` is off: there it is on, by a flag that
reads the other way round, but our inputs are whole when they are read. It measures a row by its own length, not the
batch's.

Shapes: B rows; M inputs; L steps of a target, S of a source; d width of a stream; H heads.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.fusion.cross_attention import CrossEncoder, check_heads
from polymodal.fusion.project import Project, at_least_two
from polymodal.layers.pooling import last_real
from polymodal.layers.transformer import Transformer
from polymodal.types import Fused, Tokens

MIN_MEMORY_LAYERS = 3  # of the self-attention behind, however few layers the cross-modal encoders have


class MultConfig(Config):
    """The defaults are the paper's for CMU-MOSI; its joint state has M (M - 1) · `stream` features."""

    kind: Literal["mult"] = "mult"
    stream: int = Field(30, ge=1, le=2**16)  # width of each input's stream
    layers: int = Field(5, ge=1, le=1000)
    heads: int = Field(5, ge=1)
    causal: bool = False  # a step sees of the others only what came before it; the longer one's surplus counts as past
    dropout: float = Field(0.1, ge=0, lt=1)  # of attention and residual branches
    embed_dropout: float = Field(0.25, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> "MultConfig":
        check_heads("stream", self.stream, self.heads)
        return self

    def build(self, widths: Mapping[str, int]) -> "MultimodalTransformer":
        return MultimodalTransformer(self, widths)


class MultimodalTransformer(nn.Module):
    def __init__(self, config: MultConfig, widths: Mapping[str, int]) -> None:
        """Raises ConfigError: fewer than two inputs."""
        super().__init__()
        at_least_two("mult", widths)
        self.config = config
        retold = (len(widths) - 1) * config.stream  # one target's streams side by side
        self.width, self.widths = len(widths) * retold, dict.fromkeys(widths, retold)
        self.project = Project(widths, config.stream)
        self.embed_dropout = nn.Dropout(config.embed_dropout)
        self.crossed = nn.ModuleList(
            nn.ModuleList(self._cross_encoder() for source in widths if source != target) for target in widths
        )
        self.memories = nn.ModuleList(_Memory(config, retold) for _ in widths)
        self.residual = nn.Sequential(
            nn.Linear(self.width, self.width), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(self.width, self.width)
        )

    def _cross_encoder(self) -> CrossEncoder:
        config = self.config
        return CrossEncoder(config.layers, config.stream, config.heads, 4 * config.stream, "relu", config.dropout)

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """Maps, for a target text, a source image and layer i: "text->image.i", (B, H, L, S)."""
        streams = {name: self.embed_dropout(with_positions(x)) for name, x in self.project.sequences(tokens).items()}
        masks = {name: tokens[name].mask for name in self.widths}
        states: dict[str, Tokens] = {}
        looks: dict[str, Tensor] = {}
        for target, encoders, memory in zip(self.widths, self.crossed, self.memories, strict=True):
            assert isinstance(encoders, nn.ModuleList)
            retold = []
            for source, encoder in zip((name for name in self.widths if name != target), encoders, strict=True):
                allowed = may_look(masks[target], masks[source], self.config.causal)
                x, seen = encoder(streams[target], streams[source], allowed, maps)
                retold.append(x)
                looks |= {f"{target}->{source}.{number}": weights for number, weights in enumerate(seen)}
            own = may_look(masks[target], masks[target], self.config.causal)
            x = memory(self.embed_dropout(with_positions(torch.cat(retold, -1))), own)
            states[target] = Tokens(x, masks[target], last_real(x, masks[target]))
        together = torch.cat([states[name].pooled for name in self.widths], 1)
        return Fused(together + self.residual(together), states, looks)


class _Memory(nn.Module):
    """Self-attention over what the sources told a target, whose every step has its own right to look."""

    def __init__(self, config: MultConfig, width: int) -> None:
        super().__init__()
        layers = max(config.layers, MIN_MEMORY_LAYERS)
        self.blocks = Transformer(layers, width, config.heads, 4 * width, "relu", 1e-5, dropout=config.dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.blocks.run(block, x, mask)
        out: Tensor = self.norm(x)
        return out


def with_positions(x: Tensor) -> Tensor:
    """√D x + sinusoids of each place, (B, L, D): sines in the first half of the features, cosines in the second.

    Source: the paper's modules/position_embedding.py (fairseq's), frequencies 10000^(-i / (D/2 - 1)); an odd width
    ends with a 0.
    """
    length, width = x.shape[1:]
    half = width // 2
    places = torch.arange(length, device=x.device, dtype=torch.float32)
    frequencies = torch.exp(torch.arange(half, device=x.device) * (-math.log(10000) / max(half - 1, 1)))
    angles = places[:, None] * frequencies
    table = torch.cat([angles.sin(), angles.cos(), angles.new_zeros(length, width % 2)], 1)
    return math.sqrt(width) * x + table.to(x.dtype)


def may_look(target: Tensor, source: Tensor, causal: bool) -> Tensor:
    """(B, 1, L or 1, S) bool, of masks (B, L) and (B, S): where a step of the target may look.

    With `causal`, step i sees the source's steps up to i + |S - L|, both counted in the row's real steps. A step that
    may see nothing sees everything, for softmax over nothing is not a number.
    """
    allowed = source[:, None, :]
    if causal:
        surplus = (source.sum(1) - target.sum(1)).abs()
        step, seen = (torch.arange(mask.shape[1], device=mask.device) for mask in (target, source))
        allowed = allowed & (seen <= step[:, None] + surplus[:, None, None])
    return (allowed | ~allowed.any(-1, keepdim=True))[:, None]
