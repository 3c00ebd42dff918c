"""Plain residual networks (ResNet-18 to -152, v1.5: the stride sits in the 3 x 3 convolution).

Source: He et al. 2016, arXiv:1512.03385, table 1. Weights have torchvision's names, so that its and timm's files load
as they are, the classifier left out.
Shapes: B pictures; L places of the last grid; D width.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.types import Tokens


class ResnetConfig(Config):
    """The defaults are ResNet-50."""

    kind: Literal["resnet"] = "resnet"
    reads: ClassVar[Literal["image"]] = "image"
    image_size: int = Field(224, ge=1)  # pixels of both sides in training; any other works
    block: Literal["basic", "bottleneck"] = "bottleneck"
    layers: tuple[int, int, int, int] = (3, 4, 6, 3)  # blocks of each stage
    stem: int = Field(64, ge=1)  # channels of the first stage; each further stage doubles them

    @property
    def width(self) -> int:
        """D: 2048 for ResNet-50, 512 for ResNet-18."""
        return self.stem * 8 * (4 if self.block == "bottleneck" else 1)

    def build(self) -> "Resnet":
        return Resnet(self)


class Basic(nn.Module):
    expansion = 1

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.downsample = shortcut(channels, inner, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * inner)
        self.downsample = shortcut(channels, 4 * inner, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        return torch.relu(self.bn3(self.conv3(out)) + self.downsample(x))


def shortcut(channels: int, out: int, stride: int) -> nn.Module:
    if stride == 1 and channels == out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class Resnet(nn.Module):
    def __init__(self, config: ResnetConfig) -> None:
        super().__init__()
        self.config = config
        kind = Basic if config.block == "basic" else Bottleneck
        self.conv1 = nn.Conv2d(3, config.stem, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.stem)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        channels = config.stem
        for stage, blocks in enumerate(config.layers):
            inner = config.stem * 2**stage
            stack = []
            for number in range(blocks):
                stack.append(kind(channels, inner, stride=2 if stage and number == 0 else 1))
                channels = inner * kind.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*stack))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # arXiv:1502.01852
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def stages(self) -> list[nn.Module]:
        return [self.get_submodule(f"layer{stage + 1}") for stage in range(4)]

    def forward(self, pixels: Tensor) -> Tokens:
        """Tokens of normalized pixels (B, 3, H, W): the last grid, place by place, pooled by its mean."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(pixels))))
        for stage in self.stages:
            x = stage(x)
        return grid_tokens(x)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: stem, then each stage."""
        stem = [*self.conv1.parameters(), *self.bn1.parameters()]
        return [stem, *(list(stage.parameters()) for stage in self.stages)]


def grid_tokens(grid: Tensor) -> Tokens:
    """(B, D, H, W) as tokens, pooled by their mean."""
    sequence = grid.flatten(2).transpose(1, 2)
    mask = torch.ones(sequence.shape[:2], dtype=torch.bool, device=grid.device)
    return Tokens(sequence, mask, sequence.mean(1))
