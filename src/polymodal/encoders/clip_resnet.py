"""CLIP's residual network: a stem of three convolutions, anti-aliased strides, attention pooling.

Source: Radford et al. 2021, arXiv:2103.00020, section 2.4; openai/CLIP clip/model.py `ModifiedResNet`. Weights have
OpenAI's names.
Shapes: B pictures; L places of the last grid; C channels there, 32 x stem; D width.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from polymodal.config import Config
from polymodal.layers.positions import fit_grid
from polymodal.types import Tokens


class ClipResnetConfig(Config):
    """The defaults are CLIP's RN50."""

    kind: Literal["clip_resnet"] = "clip_resnet"
    reads: ClassVar[Literal["image"]] = "image"
    image_size: int = Field(224, ge=32, multiple_of=32)  # positions of the pooling are learned for it
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)  # blocks of each stage
    stem: int = Field(64, ge=2, multiple_of=2)  # channels of the first stage; each further stage doubles them
    width: int = Field(1024, ge=1)  # D: pooling projects to it, so that CLIP has no image projection of its own

    def build(self) -> "ClipResnet":
        return ClipResnet(self)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, average pooling in place of a stride, 1 x 1; the shortcut is pooled alike."""

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * inner)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != 4 * inner:
            self.downsample = nn.Sequential()
            self.downsample.add_module("-1", nn.AvgPool2d(stride))  # OpenAI's numbering of the three
            self.downsample.add_module("0", nn.Conv2d(channels, 4 * inner, 1, bias=False))
            self.downsample.add_module("1", nn.BatchNorm2d(4 * inner))
        nn.init.zeros_(self.bn3.weight)  # every block starts as its shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.avgpool(torch.relu(self.bn2(self.conv2(out))))
        return torch.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class GridAttentionPool(nn.Module):
    """The mean token looks at itself and every place of the grid."""

    def __init__(self, side: int, channels: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(side * side + 1, channels))
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, width)
        nn.init.normal_(self.positional_embedding, std=channels**-0.5)
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(linear.weight, std=channels**-0.5)

    def forward(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """Each place's own part (B, L, D) and the pooled vector (B, D) of a grid (B, C, H, W)."""
        x = grid.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], dim=1)
        x = x + fit_grid(self.positional_embedding, grid.shape[2], grid.shape[3], leading=1).to(x.dtype)
        value = self.v_proj(x)
        query, key, split = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_proj(x[:, :1]), self.k_proj(x), value)
        )
        mixed = scaled_dot_product_attention(query, key, split).transpose(1, 2).flatten(2)
        return self.c_proj(value[:, 1:]), self.c_proj(mixed)[:, 0]


class ClipResnet(nn.Module):
    def __init__(self, config: ClipResnetConfig) -> None:
        super().__init__()
        self.config = config
        stem = config.stem
        self.conv1 = nn.Conv2d(3, stem // 2, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem // 2)
        self.conv2 = nn.Conv2d(stem // 2, stem // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(stem // 2)
        self.conv3 = nn.Conv2d(stem // 2, stem, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(stem)
        self.avgpool = nn.AvgPool2d(2)
        channels = stem
        for stage, blocks in enumerate(config.layers):
            stack = []
            for number in range(blocks):
                stack.append(Bottleneck(channels, stem * 2**stage, stride=2 if stage and number == 0 else 1))
                channels = 4 * stem * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*stack))
        self.attnpool = GridAttentionPool(config.image_size // 32, channels, max(1, stem // 2), config.width)

    @property
    def stages(self) -> list[nn.Module]:
        return [self.get_submodule(f"layer{stage + 1}") for stage in range(4)]

    def forward(self, pixels: Tensor) -> Tokens:
        """Tokens of normalized pixels (B, 3, H, W).

        `sequence` is each place's value through the pooling's output layer, which lies in the space of `pooled`
        (arXiv:2112.01071 reads dense features so); other sizes than the configured one interpolate the positions.
        """
        x = torch.relu(self.bn1(self.conv1(pixels)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.avgpool(torch.relu(self.bn3(self.conv3(x))))
        for stage in self.stages:
            x = stage(x)
        sequence, pooled = self.attnpool(x)
        mask = torch.ones(sequence.shape[:2], dtype=torch.bool, device=x.device)
        return Tokens(sequence, mask, pooled)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: stem, each stage, the pooling."""
        stem = [self.conv1, self.bn1, self.conv2, self.bn2, self.conv3, self.bn3]
        parts = [nn.ModuleList(stem), *self.stages, self.attnpool]
        return [list(part.parameters()) for part in parts]
