"""Early fusion: the tokens of all inputs go through one Transformer, where each may look at every other.

Sources: Li et al. 2019, arXiv:1908.03557 (VisualBERT: post-norm, one LayerNorm over the joint embeddings); Kim et al.
2021, arXiv:2102.03334 (ViLT: pre-norm, a type vector for each input).
Shapes: B rows; L tokens of all inputs together; D width; H heads.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.layers.mlp import Activation
from polymodal.layers.named import module_name
from polymodal.layers.packing import Layout
from polymodal.layers.pooling import masked_mean
from polymodal.layers.transformer import Block, Transformer
from polymodal.types import Fused, Tokens


class EarlyConfig(Config):
    kind: Literal["early"] = "early"
    width: int = Field(768, ge=1, le=2**16)
    layers: int = Field(12, ge=1, le=1000)
    heads: int = Field(12, ge=1)
    mlp_width: int | None = None  # None: 4 x width
    norm: Literal["pre", "post"] = "pre"  # pre: with a LayerNorm behind the last block
    activation: Activation = "gelu"
    eps: float = 1e-12
    dropout: float = Field(0.0, ge=0, lt=1)
    types: bool = True  # a learned vector for each input, added to its tokens
    input_norm: bool = False  # a LayerNorm in front of the first block
    pool: Literal["cls", "pooler", "last_word", "mean"] = "cls"  # see `Early`

    @model_validator(mode="after")
    def _fits(self) -> "EarlyConfig":
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")
        return self

    def build(self, widths: Mapping[str, int]) -> "Early":
        return Early(self, widths)


class Early(nn.Module):
    """The joint state, by `pool`.

    - cls: the first token of the first input;
    - pooler: tanh of a linear layer on it (BERT's);
    - last_word: the last token but one of the first input, a text that ends with [SEP] (VisualBERT for VQA);
    - mean: of all real tokens of the inputs that a row has.
    """

    def __init__(self, config: EarlyConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.widths = dict.fromkeys(widths, config.width)
        self.projections = fit_widths(widths, config.width)
        self.types = nn.Parameter(torch.empty(len(widths), config.width)) if config.types else None
        self.input_norm = nn.LayerNorm(config.width, eps=config.eps) if config.input_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = Transformer(
            config.layers,
            config.width,
            config.heads,
            config.mlp_width or 4 * config.width,
            config.activation,
            config.eps,
            norm=config.norm,
            dropout=config.dropout,
        )
        self.norm = nn.LayerNorm(config.width, eps=config.eps) if config.norm == "pre" else nn.Identity()
        self.pooler = tanh_pooler(config.width) if config.pool == "pooler" else nn.Identity()
        initialize_as_bert(self)

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """The joint state of B rows.

        Args:
            maps: also give, for layer i, `attention.i` (B, H, L, L): how much each token looks at each, the inputs one
                after the other. It computes every layer's scores twice.
        """
        lengths = [given.sequence.shape[1] for given in tokens.values()]
        mask = torch.cat([given.mask for given in tokens.values()], dim=1)
        states, looks = self._run(self._embed(tokens), mask, maps)
        states = self.norm(states)
        pieces = zip(tokens.items(), states.split(lengths, dim=1), strict=True)
        # An input's own summary is a mean: not every one has a class token in front.
        split = {name: Tokens(piece, given.mask, masked_mean(piece, given.mask)) for (name, given), piece in pieces}
        return Fused(self._pool(states, tokens, present), split, looks)

    def _embed(self, tokens: Mapping[str, Tokens]) -> Tensor:
        parts = [self.projections[module_name(name)](given.sequence) for name, given in tokens.items()]
        if self.types is not None:
            parts = [part + vector.to(part.dtype) for part, vector in zip(parts, self.types, strict=True)]
        joint: Tensor = self.dropout(self.input_norm(torch.cat(parts, dim=1)))
        return joint

    def _run(self, states: Tensor, mask: Tensor, maps: bool) -> tuple[Tensor, dict[str, Tensor]]:
        layout, looks = Layout.of(mask, pack=self.training and not maps), {}
        states = layout.pack(states)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            if maps:
                looks[f"attention.{number}"] = block.weights(states, layout.keys)
            states = self.blocks.run(block, states, layout)
        return layout.pad(states), looks

    def _pool(self, states: Tensor, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor]) -> Tensor:
        match self.config.pool:
            case "mean":
                return masked_mean(
                    states, torch.cat([tokens[name].mask & present[name][:, None] for name in tokens], 1)
                )
            case "last_word":
                lengths = next(iter(tokens.values())).mask.sum(1)
                return states[torch.arange(states.shape[0], device=states.device), (lengths - 2).clamp(min=0)]
            case _:
                pooled: Tensor = self.pooler(states[:, 0])
                return pooled


def fit_width(given: int, wanted: int) -> nn.Module:
    """A linear layer where the widths differ, else nothing."""
    return nn.Identity() if given == wanted else nn.Linear(given, wanted)


def fit_widths(given: Mapping[str, int], wanted: int) -> nn.ModuleDict:
    """`fit_width` of each input, by its `module_name`."""
    return nn.ModuleDict({module_name(name): fit_width(width, wanted) for name, width in given.items()})


def tanh_pooler(width: int) -> nn.Sequential:
    """BERT's: what it gives lies between -1 and 1."""
    return nn.Sequential(nn.Linear(width, width), nn.Tanh())


def initialize_as_bert(module: nn.Module) -> None:
    """Weights of linear layers and loose vectors normal with 0.02, biases zero: google-research/bert, modeling.py."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)
        for vector in part.parameters(recurse=False):
            if not isinstance(part, nn.Linear | nn.LayerNorm):
                nn.init.normal_(vector, std=0.02)
