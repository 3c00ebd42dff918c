"""The audio tower of Whisper, which also reads sounds shorter than the 30 s that Whisper pads to.

Source: Radford et al. 2022, arXiv:2212.04356, section 2.2; openai/whisper whisper/model.py `AudioEncoder`; transformers
`WhisperEncoder`.
Shapes: B sounds; T frames; L = ceil(T / 2) tokens; M bands; D width.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.errors import ShapeError
from polymodal.layers.branch import holds
from polymodal.layers.mlp import Activation, activation
from polymodal.layers.pooling import masked_mean
from polymodal.layers.spec_augment import SpecAugmentConfig
from polymodal.layers.transformer import Transformer
from polymodal.types import Series, Tokens


class WhisperConfig(Config):
    """The defaults are Whisper tiny."""

    kind: Literal["whisper"] = "whisper"
    reads: ClassVar[Literal["audio"]] = "audio"
    mels: int = Field(80, ge=1)  # bands of a frame: preprocess.mels
    max_length: int = Field(1500, ge=1)  # tokens for which there are positions, 50 a second
    width: int = Field(384, ge=4, le=2**16)
    layers: int = Field(4, ge=1, le=1000)
    heads: int = Field(6, ge=1)
    mlp_width: int | None = None  # None: 4 x width
    activation: Activation = "gelu"
    dropout: float = Field(0.0, ge=0, lt=1)
    spec_augment: SpecAugmentConfig | None = None  # in training only

    def model_post_init(self, context: object) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")
        if self.width % 2:
            raise ValueError(f"width must be even, half sines and half cosines, got {self.width}")

    def build(self) -> "Whisper":
        return Whisper(self)


class Whisper(nn.Module):
    positions: Tensor

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.augment = config.spec_augment.build() if config.spec_augment else nn.Identity()
        self.conv1 = nn.Conv1d(config.mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.act = activation("gelu")  # of the convolutions, whatever the blocks have
        self.register_buffer("positions", sinusoids(config.max_length, width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = Transformer(
            config.layers,
            width,
            config.heads,
            config.mlp_width or 4 * width,
            config.activation,
            1e-5,
            dropout=config.dropout,
        )
        self.post_norm = nn.LayerNorm(width)

    def forward(self, sound: Series) -> Tokens:
        """Tokens of log-mel frames (B, T, M); `pooled` is the mean of the real ones.

        A sound gives what it would give alone, whatever it is batched with. Where every frame is real, as after
        `pad_to_max`, this is Whisper's encoder exactly.

        Raises:
            ShapeError: the frames have another number of bands, or are more than there are positions for.
        """
        self._check(sound)
        frames, mask = self.augment(sound)
        real = mask[:, None, :]  # (B, 1, T)
        x = self.act(self.conv1(frames.transpose(1, 2).masked_fill(~real, 0)))
        # Beyond a sound's end the second convolution must see what it would pad with.
        x = self.act(self.conv2(x.masked_fill(~real, 0))).transpose(1, 2)
        # A token stands at every other frame and looks at both neighbors.
        mask = mask[:, 2 * torch.arange(x.shape[1], device=x.device)]
        x = self.dropout(x + self.positions[: x.shape[1]].to(x.dtype))
        x = self.post_norm(self.blocks(x, None if holds(mask.all()) else mask))
        return Tokens(x, mask, masked_mean(x, mask))

    def _check(self, sound: Series) -> None:
        _, length, bands = sound.values.shape
        if bands != self.config.mels:
            raise ShapeError(
                f"audio encoder: wanted frames of {self.config.mels} bands, got {bands}; "
                f"set preprocess.mels to {self.config.mels} and preprocess.features to log_mel"
            )
        if length > 2 * self.config.max_length:
            raise ShapeError(
                f"audio encoder: at most {2 * self.config.max_length} frames have positions, got {length}; "
                f"set preprocess.seconds to {self.config.max_length / 50:g} or less"
            )

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: convolutions, each block, what comes after."""
        first = [*self.conv1.parameters(), *self.conv2.parameters()]
        return [first, *(list(block.parameters()) for block in self.blocks), list(self.post_norm.parameters())]


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width): sines, then cosines, of wavelengths from 2π to 10,000 x 2π (whisper/model.py `sinusoids`)."""
    step = math.log(10_000) / (width // 2 - 1)
    angles = torch.arange(length)[:, None] * torch.exp(-step * torch.arange(width // 2))
    return torch.cat([angles.sin(), angles.cos()], dim=1)
