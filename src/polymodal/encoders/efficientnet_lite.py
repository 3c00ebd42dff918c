"""EfficientNet-Lite: MobileNet-like blocks without squeeze-and-excitation, ReLU6 throughout.

Sources: Tan & Le 2019, arXiv:1905.11946; tensorflow/tpu models/official/efficientnet/lite; the package
efficientnet_lite_pytorch, whose weights load (see models/published).
Shapes: B pictures; L places of the last grid; D width.
"""

import math
from copy import deepcopy
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

from polymodal.config import Config
from polymodal.encoders.resnet import grid_tokens
from polymodal.types import Tokens

STEM = 32  # channels; the Lite family does not scale stem and head
# (repeats, kernel, stride, expansion, channels) of each stage in Lite0
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
LEVELS = slice(2, None)  # stages whose grids `pool="levels"` reads; the earlier ones see edges and little else


class EfficientNetLiteConfig(Config):
    """The defaults are Lite0. Lite1 to Lite4: multipliers (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8)."""

    kind: Literal["efficientnet_lite"] = "efficientnet_lite"
    reads: ClassVar[Literal["image"]] = "image"
    image_size: int = Field(224, ge=1)  # pixels of both sides in training; any other works
    width_multiplier: float = Field(1.0, gt=0)
    depth_multiplier: float = Field(1.0, gt=0)
    head_width: int = Field(1280, ge=1)  # channels of the last convolution
    pool: Literal["mean", "levels"] = "mean"  # of the last grid; levels: beside it those of the stages before it
    classes: int = Field(0, ge=0)  # the trained classifier's logits stand at the end of the pooled vector
    drop_connect: float = Field(0.2, ge=0, lt=1)  # chance to skip the last block in training; rises evenly from 0

    @property
    def stages(self) -> list[tuple[int, int, int, int, int]]:
        """(repeats, kernel, stride, expansion, channels) of each stage at this width and depth."""
        found = []
        for stage, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
            if stage not in (0, len(STAGES) - 1):  # the Lite family does not deepen its first and last stage
                repeats = math.ceil(self.depth_multiplier * repeats)
            found.append((repeats, kernel, stride, expansion, round_channels(channels * self.width_multiplier)))
        return found

    @property
    def parts(self) -> tuple[int, ...]:
        """Widths of what stands side by side in the pooled vector: last grid, levels, logits."""
        levels = sum(channels for *_, channels in self.stages[LEVELS]) if self.pool == "levels" else 0
        return tuple(width for width in (self.head_width, levels, self.classes) if width)

    @property
    def width(self) -> int:
        """D, of the pooled vector."""
        return sum(self.parts)

    def build(self) -> "EfficientNetLite":
        return EfficientNetLite(self)


def relu6(x: Tensor) -> Tensor:
    return torch.nn.functional.relu6(x, inplace=not torch.is_grad_enabled())  # spares a pass over memory


class SameConv(nn.Conv2d):
    """TensorFlow's "SAME" padding: to ceil(side / stride) places, the odd pixel below and to the right."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        down, across = (max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:])
        around = (down // 2, across // 2)
        if down % 2 or across % 2:  # `conv2d` itself can only pad evenly
            x, around = pad(x, (across // 2, across - across // 2, down // 2, down - down // 2)), (0, 0)
        return conv2d(x, self.weight, self.bias, self.stride, around, self.dilation, self.groups)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Widen (1 x 1), filter each channel alone, narrow (1 x 1); a shortcut when shapes allow."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int, drop: float) -> None:
        super().__init__()
        inner = channels * expansion
        self.expands = expansion > 1
        self.shortcut = stride == 1 and channels == out
        self.drop = drop
        if self.expands:
            self.expand = nn.Conv2d(channels, inner, 1, bias=False)
            self.norm0 = norm(inner)
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner, bias=False)
        self.norm1 = norm(inner)
        self.project = nn.Conv2d(inner, out, 1, bias=False)
        self.norm2 = norm(out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = relu6(self.norm0(self.expand(x))) if self.expands else x
        out = relu6(self.norm1(self.depthwise(out)))
        out = self.norm2(self.project(out))
        if not self.shortcut:
            return out
        if self.training and self.drop:
            keep = 1 - self.drop
            out = out / keep * torch.empty(len(out), 1, 1, 1, device=out.device, dtype=out.dtype).bernoulli_(keep)
        return x + out


class EfficientNetLite(nn.Module):
    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = SameConv(3, STEM, 3, 2, bias=False)
        self.stem_norm = norm(STEM)
        self.blocks = nn.ModuleList(blocks(config))
        last = self.blocks[-1]
        assert isinstance(last, InvertedResidual)
        self.head = nn.Conv2d(last.project.out_channels, config.head_width, 1, bias=False)
        self.head_norm = norm(config.head_width)
        self.classifier = nn.Linear(config.head_width, config.classes) if config.classes else None
        ends = list(accumulate(repeats for repeats, *_ in config.stages))
        self.levels = [end - 1 for end in ends[LEVELS]] if config.pool == "levels" else []  # blocks
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as the TensorFlow source: normal by fan-out
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, pixels: Tensor) -> Tokens:
        """Tokens of normalized pixels (B, 3, H, W): the last grid, place by place; pooled as the config says."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)  # on a CPU a third less time
        x = relu6(self.stem_norm(self.stem(pixels)))
        levels = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.levels:
                levels.append(x.mean((2, 3)))
        tokens = grid_tokens(relu6(self.head_norm(self.head(x))))
        logits = [self.classifier(tokens.pooled)] if self.classifier is not None else []
        return tokens._replace(pooled=torch.cat([tokens.pooled, *levels, *logits], dim=1))

    def folded(self) -> "EfficientNetLite":
        """A copy for use, in eval mode, whose batch norms are part of the convolutions before them: half the time."""
        copy = deepcopy(self).eval()
        pairs: list[tuple[nn.Module, str, str]] = [(copy, "stem", "stem_norm"), (copy, "head", "head_norm")]
        for block in copy.blocks:
            pairs += [(block, "depthwise", "norm1"), (block, "project", "norm2")]
            if hasattr(block, "expand"):
                pairs.append((block, "expand", "norm0"))
        for owner, convolution, normalization in pairs:
            fused = fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, normalization))
            setattr(owner, convolution, fused.to(memory_format=torch.channels_last))
            setattr(owner, normalization, nn.Identity())
        return copy

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: stem, each block, the last convolution with what stands on it."""
        top = [part for part in (self.head, self.head_norm, self.classifier) if part is not None]
        parts = [nn.ModuleList([self.stem, self.stem_norm]), *self.blocks, nn.ModuleList(top)]
        return [list(part.parameters()) for part in parts]


def blocks(config: EfficientNetLiteConfig) -> list[InvertedResidual]:
    plan = []  # (channels, out, kernel, stride, expansion) of each block
    channels = STEM
    for repeats, kernel, stride, expansion, out in config.stages:
        for repeat in range(repeats):
            plan.append((channels, out, kernel, stride if repeat == 0 else 1, expansion))
            channels = out
    return [InvertedResidual(*shape, drop=config.drop_connect * index / len(plan)) for index, shape in enumerate(plan)]


def round_channels(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and never more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
