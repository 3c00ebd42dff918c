"""Bottleneck tokens: the inputs may only tell each other what fits into a few shared tokens.

Source: Nagrani et al. 2021, arXiv:2107.00135, section 3.2 (MBT): in each layer every input reads [its tokens;
bottlenecks] with its own weights, and the bottlenecks go on as the mean of what the inputs made of them. There are 4,
normal with 0.02 at the start. The answer is the mean over inputs of the class token's logits, which with a linear head
is that of the mean class token. Absent inputs are left out of both means.

Shapes: B rows; M inputs; n bottlenecks; L tokens of an input; D width; H heads.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import pad

from polymodal.config import Config
from polymodal.fusion.cross_attention import check_heads
from polymodal.fusion.project import Project, at_least_two, average_weights, presence
from polymodal.layers.attention import key_mask
from polymodal.layers.transformer import Block, Transformer
from polymodal.types import Fused, Tokens

_Work = tuple[Transformer, Block, Tensor, Tensor]  # an input's stack, its block of one layer, what goes in, its mask


class BottleneckConfig(Config):
    kind: Literal["bottleneck"] = "bottleneck"
    width: int = Field(256, ge=1, le=2**16)
    separate: int = Field(0, ge=0, le=1000)  # layers before the first bottleneck; the encoders usually are these
    layers: int = Field(4, ge=2, le=1000)  # with bottlenecks: one layer writes into them, only the next reads
    heads: int = Field(4, ge=1)
    mlp_width: int | None = None  # None: 4 x width
    bottlenecks: int = Field(4, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> "BottleneckConfig":
        check_heads("width", self.width, self.heads)
        return self

    def build(self, widths: Mapping[str, int]) -> "Bottleneck":
        return Bottleneck(self, widths)


class Bottleneck(nn.Module):
    def __init__(self, config: BottleneckConfig, widths: Mapping[str, int]) -> None:
        """Raises ConfigError: fewer than two inputs."""
        super().__init__()
        at_least_two("bottleneck", widths)
        self.config = config
        self.width, self.widths = config.width, dict.fromkeys(widths, config.width)
        self.project = Project(widths, config.width)
        self.class_tokens = nn.Parameter(torch.empty(len(widths), config.width))
        self.bottlenecks = nn.Parameter(torch.empty(config.bottlenecks, config.width))
        nn.init.normal_(self.class_tokens, std=0.02)
        nn.init.normal_(self.bottlenecks, std=0.02)
        self.stacks = nn.ModuleList(self._stack() for _ in widths)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in widths)

    def _stack(self) -> Transformer:
        config = self.config
        layers, mlp_width = config.separate + config.layers, config.mlp_width or 4 * config.width
        return Transformer(layers, config.width, config.heads, mlp_width, "gelu", 1e-5, dropout=config.dropout)

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """Maps, for an input image and layer i with bottlenecks: "image.i", (B, H, 1 + L + n, 1 + L + n).

        How much its class token, tokens and bottlenecks look at each other. Layers before those count in i.
        """
        streams, masks = self._streams(tokens)
        for number in range(self.config.separate):
            streams = [stack.run(block, x, mask) for stack, block, x, mask in self._layer(number, streams, masks)]
        weights = average_weights(presence(present).to(streams[0].dtype))
        streams, looks = self._exchange(streams, masks, weights, maps)
        streams = [norm(x) for norm, x in zip(self.norms, streams, strict=True)]
        firsts = torch.stack([x[:, 0] for x in streams], 1)
        states = {
            name: Tokens(x[:, 1:], tokens[name].mask, x[:, 0]) for name, x in zip(self.widths, streams, strict=True)
        }
        return Fused((weights[:, :, None] * firsts).sum(1), states, looks)

    def _streams(self, tokens: Mapping[str, Tokens]) -> tuple[list[Tensor], list[Tensor]]:
        """Each input's class token and tokens, and where one may look."""
        streams = [
            torch.cat([first.to(sequence.dtype).expand(sequence.shape[0], 1, -1), sequence], 1)
            for first, sequence in zip(self.class_tokens, self.project.sequences(tokens).values(), strict=True)
        ]
        return streams, [key_mask(pad(tokens[name].mask, (1, 0), value=True)) for name in self.widths]

    def _exchange(
        self, streams: list[Tensor], masks: list[Tensor], weights: Tensor, maps: bool
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        shared = self.bottlenecks.to(streams[0].dtype).expand(weights.shape[0], -1, -1)
        masks = [pad(mask, (0, len(self.bottlenecks)), value=True) for mask in masks]
        looks: dict[str, Tensor] = {}
        first = self.stacks[0]
        assert isinstance(first, Transformer)
        for number in range(self.config.separate, len(first)):  # not the config's: some may have been left out
            layer = self._layer(number, [torch.cat([x, shared], 1) for x in streams], masks)
            if maps:
                seen = [block.weights(x, mask) for _, block, x, mask in layer]
                looks |= {f"{name}.{number}": one for name, one in zip(self.widths, seen, strict=True)}
            made = [stack.run(block, x, mask) for stack, block, x, mask in layer]
            streams = [x[:, : -len(self.bottlenecks)] for x in made]
            told = torch.stack([x[:, -len(self.bottlenecks) :] for x in made], 1)
            shared = (weights[:, :, None, None] * told).sum(1)
        return streams, looks

    def _layer(self, number: int, streams: list[Tensor], masks: list[Tensor]) -> list[_Work]:
        work = []
        for stack, x, mask in zip(self.stacks, streams, masks, strict=True):
            assert isinstance(stack, Transformer)
            block = stack[number]
            assert isinstance(block, Block)
            work.append((stack, block, x, mask))
        return work
