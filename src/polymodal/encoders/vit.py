"""Vision transformer: CLIP's, SigLIP's and the plain one, told apart by options.

Sources: Dosovitskiy et al. 2021, arXiv:2010.11929; openai/CLIP clip/model.py `VisionTransformer`; Zhai et al. 2023,
arXiv:2303.15343 (SigLIP); for each, transformers' reading of it.
Shapes: B pictures; H, W their height and width; L tokens (a class token, if any, stands first); D width.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.layers.mlp import Activation
from polymodal.layers.patches import Patches
from polymodal.layers.pooling import AttentionPool
from polymodal.layers.positions import fit_grid
from polymodal.layers.transformer import Transformer
from polymodal.types import Tokens


class VitConfig(Config):
    """The defaults are CLIP's ViT-B/32."""

    kind: Literal["vit"] = "vit"
    reads: ClassVar[Literal["image"]] = "image"
    image_size: int = Field(224, ge=1)  # pixels of both sides; positions are learned for it
    patch_size: int = Field(32, ge=1)
    width: int = Field(768, ge=1, le=2**16)
    layers: int = Field(12, ge=0, le=1000)  # 0: the patches alone, for an early fusion
    heads: int = Field(12, ge=1)
    mlp_width: int | None = None  # None: 4 x width
    activation: Activation = "quick_gelu"
    eps: float = 1e-5  # of every LayerNorm; a wrong one costs parity without an error
    class_token: bool = True
    patch_bias: bool = False
    pre_norm: bool = True  # a LayerNorm between the embeddings and the first block: CLIP's oddity
    post_norm: bool = True  # a LayerNorm after the last block
    pool: Literal["cls", "tanh", "mean", "map"] = (
        "cls"  # tanh: of a linear layer on the class token; map: learned query
    )
    dropout: float = Field(0.0, ge=0, lt=1)

    def model_post_init(self, context: object) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size must be at least patch_size ({self.patch_size}), got {self.image_size}")
        if self.pool in ("cls", "tanh") and not self.class_token:
            raise ValueError(f'pool "{self.pool}" reads the class token: set class_token, or pool "mean" or "map"')

    def build(self) -> "Vit":
        return Vit(self)


class Vit(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        width, mlp_width = config.width, config.mlp_width or 4 * config.width
        leading = int(config.class_token)
        self.patches = Patches(config.patch_size, width, config.patch_bias)
        self.class_token = nn.Parameter(torch.empty(width)) if config.class_token else None
        self.positions = nn.Parameter(torch.empty(leading + (config.image_size // config.patch_size) ** 2, width))
        self.pre_norm = nn.LayerNorm(width, eps=config.eps) if config.pre_norm else nn.Identity()
        self.blocks = Transformer(
            config.layers, width, config.heads, mlp_width, config.activation, config.eps, dropout=config.dropout
        )
        self.post_norm = nn.LayerNorm(width, eps=config.eps) if config.post_norm else nn.Identity()
        self.head: nn.Module = nn.Identity()
        if config.pool == "tanh":
            self.head = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        elif config.pool == "map":
            self.head = AttentionPool(width, config.heads, mlp_width, config.activation, config.eps)
        # The released CLIP leaves the blocks of its image tower at torch's own start and sets only these.
        for parameter in (self.class_token, self.positions):
            if parameter is not None:
                nn.init.normal_(parameter, std=width**-0.5)

    def forward(self, pixels: Tensor) -> Tokens:
        """Tokens of normalized pixels (B, 3, H, W); other sizes than the configured one interpolate the positions.

        Raises:
            ShapeError: a side is less than a patch.
        """
        x = self.post_norm(self.blocks(self._embedded(pixels)))
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return Tokens(x, mask, self._pool(x))

    def pooled(self, pixels: Tensor) -> Tensor:
        """(B, D): `forward(pixels).pooled` in eval mode, without what only the other tokens need."""
        if self.config.pool not in ("cls", "tanh") or not len(self.blocks):
            said: Tokens = self(pixels)
            return said.pooled
        first = torch.zeros(pixels.shape[0], dtype=torch.int64, device=pixels.device)
        out: Tensor = self.head(self.post_norm(self.blocks.at(self._embedded(pixels), first)))
        return out

    def _embedded(self, pixels: Tensor) -> Tensor:
        x, height, width = self.patches(pixels)
        if self.class_token is not None:
            x = torch.cat([self.class_token.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        x = x + fit_grid(self.positions, height, width, leading=int(self.config.class_token)).to(x.dtype)
        out: Tensor = self.pre_norm(x)
        return out

    def _pool(self, x: Tensor) -> Tensor:
        match self.config.pool:
            case "cls" | "tanh":
                pooled: Tensor = self.head(x[:, 0])
            case "mean":
                pooled = x[:, int(self.config.class_token) :].mean(1)
            case "map":
                pooled = self.head(x)
        return pooled

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: embeddings, each block, what comes after."""
        first = [*self.patches.parameters(), self.positions, *self.pre_norm.parameters()]
        if self.class_token is not None:
            first.append(self.class_token)
        last = [*self.post_norm.parameters(), *self.head.parameters()]
        return [first, *(list(block.parameters()) for block in self.blocks), last]
