"""Steps of several channels each: touch, radar, behaviour, any sensor. A strided convolution, positions, a Transformer.

Source: the stem and the encoder of Radford et al. 2022, arXiv:2212.04356 (Whisper), with learned positions; made small.
A Transformer only: a GRU would read the same lengths step by step, several times slower, and `max_length` bounds what
attention costs.
Shapes: B rows; L steps; C channels; T = ceil(L / stride) tokens; D width.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from polymodal.config import Config
from polymodal.errors import ShapeError
from polymodal.layers.mlp import Activation
from polymodal.layers.pooling import masked_mean
from polymodal.layers.transformer import Transformer
from polymodal.types import Series, Tokens


class SeriesConfig(Config):
    kind: Literal["series"] = "series"
    reads: ClassVar[Literal["series"]] = "series"
    channels: int = Field(ge=1, le=2**16)
    max_length: int = Field(512, ge=1, le=2**20)  # steps, before the stride, for which there are positions
    kernel: int = Field(3, ge=1, le=1025)  # steps that a token is made of; odd, so that it has a middle
    stride: int = Field(1, ge=1, le=1024)  # steps from one token to the next; at most `kernel`, so that none is skipped
    width: int = Field(128, ge=1, le=2**16)
    layers: int = Field(2, ge=0, le=1000)
    heads: int = Field(4, ge=1)
    mlp_width: int | None = None  # None: 4 x width
    activation: Activation = "gelu"
    eps: float = 1e-5
    dropout: float = Field(0.1, ge=0, lt=1)

    def model_post_init(self, context: object) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")
        if self.kernel % 2 == 0:
            raise ValueError(
                f"kernel must be odd, so that a token stands in the middle of its steps, got {self.kernel}"
            )
        if self.stride > self.kernel:
            raise ValueError(f"stride must be at most kernel ({self.kernel}), or steps are skipped, got {self.stride}")

    def build(self) -> "SeriesEncoder":
        return SeriesEncoder(self)


class SeriesEncoder(nn.Module):
    def __init__(self, config: SeriesConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.stem = nn.Conv1d(config.channels, width, config.kernel, config.stride, padding=config.kernel // 2)
        self.positions = nn.Parameter(torch.empty(-(-config.max_length // config.stride), width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = Transformer(
            config.layers,
            width,
            config.heads,
            config.mlp_width or 4 * width,
            config.activation,
            config.eps,
            dropout=config.dropout,
        )
        self.post_norm = nn.LayerNorm(width, eps=config.eps)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, series: Series) -> Tokens:
        """Tokens (B, T, D) of values (B, L, C), pooled by the mean of the real ones.

        Token t stands over step t · stride and is real where that step is. Values of masked steps count as 0.

        Raises:
            ShapeError: the steps have another number of channels, or there are more than have positions.
        """
        self._check(series)
        values = series.values.masked_fill(~series.mask[:, :, None], 0.0)
        x = self.stem(values.transpose(1, 2)).transpose(1, 2)
        mask = series.mask[:, torch.arange(x.shape[1], device=x.device) * self.config.stride]
        x = self.dropout(nn.functional.gelu(x) + self.positions[: x.shape[1]].to(x.dtype))
        x = self.post_norm(self.blocks(x, mask))
        return Tokens(x, mask, masked_mean(x, mask))

    def _check(self, series: Series) -> None:
        _, length, channels = series.values.shape
        if channels != self.config.channels:
            raise ShapeError(
                f"series encoder: wanted {self.config.channels} channels, got {channels}; set channels={channels}"
            )
        if length > self.config.max_length:
            raise ShapeError(
                f"series encoder: at most {self.config.max_length} steps have positions, got {length}; "
                f"cut the series, or set max_length"
            )

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: stem with positions, each block, the last norm."""
        first = [*self.stem.parameters(), self.positions]
        return [first, *(list(block.parameters()) for block in self.blocks), list(self.post_norm.parameters())]
