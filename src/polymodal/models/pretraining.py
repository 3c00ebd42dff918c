"""Heads that only pre-training needs: `Multimodal.forward` does not run them, objectives do.

Sources: BERT (arXiv:1810.04805) for the transform and the tied decoder; ViLBERT (arXiv:1908.02265) and LXMERT
(arXiv:1908.07490) for regions; MAE (arXiv:2111.06377) for the decoder of pictures; ALBEF (arXiv:2107.07651) for
contrast before the fusion.
Shapes: B rows; M masked places; W width of the state that is read; E width of the text encoder's embedding table; V
ids; L patches; D width of the shared space.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from polymodal.config import Config
from polymodal.errors import ConfigError, did_you_mean
from polymodal.layers.transformer import Transformer
from polymodal.models.clip import projection
from polymodal.types import Tokens


class Parts(NamedTuple):
    """What a head for pre-training can stand on."""

    width: int  # of the joint state
    widths: Mapping[str, int]  # of each input's tokens after the fusion
    encoder_widths: Mapping[str, int]  # of what each encoder pools
    encoders: nn.ModuleDict


class MaskedTextHeadConfig(Config):
    """BERT's: a transform, then scores of all ids by the text encoder's own embedding table."""

    kind: Literal["masked_text"] = "masked_text"
    input: str = "text"
    eps: float = 1e-12

    def build(self, parts: Parts) -> "MaskedTextHead":
        embedding = getattr(parts.encoders[_known(self.kind, self.input, parts)], "embedding", None)
        if not isinstance(embedding, nn.Embedding):
            raise ConfigError(
                f'pretraining head masked_text: encoder "{self.input}" has no embedding table of ids, so none can be '
                "predicted; name a text encoder as its input"
            )
        return MaskedTextHead(parts.widths[self.input], embedding, self.eps)


class MaskedRegionsHeadConfig(Config):
    """ViLBERT has one output, the detector's classes; LXMERT several after one transform."""

    kind: Literal["masked_regions"] = "masked_regions"
    input: str = "regions"
    outputs: dict[str, int] = Field(min_length=1)  # numbers by name: "classes", "features", and what else a model has
    eps: float = 1e-12

    def build(self, parts: Parts) -> "MaskedRegionsHead":
        return MaskedRegionsHead(parts.widths[_known(self.kind, self.input, parts)], self.outputs, self.eps)


class MaskedImageHeadConfig(Config):
    kind: Literal["masked_image"] = "masked_image"
    input: str = "image"
    cell: int = Field(ge=1)  # pixels of a side of what one token sees

    def build(self, parts: Parts) -> nn.Linear:
        return nn.Linear(parts.widths[_known(self.kind, self.input, parts)], 3 * self.cell**2)


class MaeDecoderConfig(Config):
    """The defaults are those of arXiv:2111.06377 for ViT-B."""

    kind: Literal["mae"] = "mae"
    input: str = "image"
    cell: int = Field(ge=1)  # pixels of a side of a patch
    width: int = Field(512, ge=4, multiple_of=4)
    layers: int = Field(8, ge=1, le=1000)
    heads: int = Field(16, ge=1)
    eps: float = 1e-6

    def model_post_init(self, context: object) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")

    def build(self, parts: Parts) -> "MaeDecoder":
        return MaeDecoder(self, parts.encoder_widths[_known(self.kind, self.input, parts)])


class MatchingHeadConfig(Config):
    """Do the inputs of a row belong together? With two outputs, 1 is yes; with one, above 0."""

    kind: Literal["matching"] = "matching"
    outputs: Literal[1, 2] = 2

    def build(self, parts: Parts) -> nn.Linear:
        return nn.Linear(parts.width, self.outputs)


class ContrastiveHeadConfig(Config):
    kind: Literal["contrastive"] = "contrastive"
    first: str = "image"
    second: str = "text"
    width: int = Field(256, ge=1)  # D
    projection: Literal["linear", "affine", "mlp"] = "affine"
    temperature: float = Field(0.07, ge=0.001, le=10)  # at the start; cosines are divided by it
    max_scale: float = Field(100.0, gt=0)  # ceiling on 1 / temperature, as in `ClipConfig`

    def build(self, parts: Parts) -> "ContrastiveHead":
        widths = [parts.encoder_widths[_known(self.kind, name, parts)] for name in (self.first, self.second)]
        return ContrastiveHead(self, *widths)


PretrainingHeadConfig = Annotated[
    MaskedTextHeadConfig
    | MaskedRegionsHeadConfig
    | MaskedImageHeadConfig
    | MaeDecoderConfig
    | MatchingHeadConfig
    | ContrastiveHeadConfig,
    Field(discriminator="kind"),
]


class Transform(nn.Module):
    """Linear, GELU, LayerNorm: (..., W) -> (..., E)."""

    def __init__(self, width: int, out: int, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, out)
        self.norm = nn.LayerNorm(out, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(nn.functional.gelu(self.dense(x)))
        return out


class MaskedTextHead(nn.Module):
    def __init__(self, width: int, embedding: nn.Embedding, eps: float) -> None:
        super().__init__()
        self.transform = Transform(width, embedding.embedding_dim, eps)
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
        # In a tuple, so that the table is not registered again: it is the encoder's, in files and in optimizers.
        self._tied = (embedding,)

    def forward(self, states: Tensor) -> Tensor:
        """Logits (M, V) of the states (M, W) at masked places; all others would cost V numbers each for nothing."""
        return linear(self.transform(states), self._tied[0].weight, self.bias)


class MaskedRegionsHead(nn.Module):
    def __init__(self, width: int, outputs: Mapping[str, int], eps: float) -> None:
        super().__init__()
        self.transform = Transform(width, width, eps)
        self.decoders = nn.ModuleDict({name: nn.Linear(width, count) for name, count in outputs.items()})

    def forward(self, states: Tensor) -> dict[str, Tensor]:
        """(M, count) by the output's name, of the states (M, W) of masked regions."""
        seen = self.transform(states)
        return {name: decoder(seen) for name, decoder in self.decoders.items()}


class MaeDecoder(nn.Module):
    """From the patches that the encoder saw to the pixels of all."""

    def __init__(self, config: MaeDecoderConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(width, config.width)
        self.mask_token = nn.Parameter(torch.empty(config.width))
        self.blocks = Transformer(config.layers, config.width, config.heads, 4 * config.width, "gelu", config.eps)
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        self.pixels = nn.Linear(config.width, 3 * config.cell**2)
        for module in self.modules():  # facebookresearch/mae, models_mae.py `_init_weights`
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, seen: Tensor, restore: Tensor, grid: tuple[int, int]) -> Tensor:
        """Pixels of every patch, (B, L, 3 cell²), by row, column, channel.

        Args:
            seen: (B, 1 + K, W), what the encoder says of its class token and of the K patches that it saw.
            restore: (B, L), place of each patch in the shuffled order, whose first K the encoder saw.
            grid: patches down and across.
        """
        x = self.embed(seen)
        hidden = self.mask_token.to(x.dtype).expand(len(x), restore.shape[1] + 1 - x.shape[1], -1)
        patches = torch.cat([x[:, 1:], hidden], 1).gather(1, restore[:, :, None].expand(-1, -1, x.shape[2]))
        positions = torch.cat([x.new_zeros(1, x.shape[2]), sin_cos_grid(*grid, x.shape[2]).to(x)])
        states = self.norm(self.blocks(torch.cat([x[:, :1], patches], 1) + positions))
        out: Tensor = self.pixels(states[:, 1:])
        return out


def sin_cos_grid(height: int, width: int, size: int) -> Tensor:
    """Fixed positions of a grid, row by row, (height · width, size), size a multiple of 4.

    sin and cos of the column by frequencies 10000^(-4 i / size), then of the row: facebookresearch/mae,
    util/pos_embed.py.
    """
    frequency = 10000 ** -(torch.arange(size // 4, dtype=torch.float64) / (size // 4))
    row, column = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    angles = [column.flatten().outer(frequency), row.flatten().outer(frequency)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1).float()


class ContrastiveHead(nn.Module):
    """What two encoders say, in one space, before the fusion."""

    def __init__(self, config: ContrastiveHeadConfig, first: int, second: int) -> None:
        super().__init__()
        self.config = config
        self.first = projection(config.projection, first, config.width)
        self.second = projection(config.projection, second, config.width)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def forward(self, tokens: Mapping[str, Tokens]) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors (B, D) of the first and of the second input, and the scale (), 1 / temperature.

        The scale never exceeds its ceiling, and beyond it the gradient stays, so that the way back is open.
        """
        first = normalize(self.first(tokens[self.config.first].pooled), dim=-1)
        second = normalize(self.second(tokens[self.config.second].pooled), dim=-1)
        return first, second, _below(self.log_scale, math.log(self.config.max_scale)).exp()


def _below(value: Tensor, ceiling: float) -> Tensor:
    # Not clamp, whose gradient beyond the ceiling is 0, so that nothing would ever lead back.
    return value - (value - ceiling).clamp(min=0).detach()


def _known(kind: str, name: str, parts: Parts) -> str:
    if name not in parts.encoder_widths:
        known = parts.encoder_widths
        raise ConfigError(
            f'pretraining head {kind} reads input "{name}"; the model has {", ".join(known)}{did_you_mean(name, known)}'
        )
    return name
