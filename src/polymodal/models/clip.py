"""CLIP: an image tower and a text tower that meet in one space.

Source: Radford et al. 2021, arXiv:2103.00020 (figure 3; section 2.5 for the temperature). SigLIP (arXiv:2303.15343)
adds a bias, Chinese-CLIP (arXiv:2211.01335) a BERT, LiT (arXiv:2111.07991) locks the image tower: all are configs of
this file.
Shapes: B pairs; D width of the shared space.
"""

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymodal.config import Config
from polymodal.encoders import ImageEncoderConfig, TextEncoderConfig
from polymodal.errors import ConfigError
from polymodal.layers.kernel import KernelProjection
from polymodal.models.forms import Forms
from polymodal.types import Text


class KernelConfig(Config):
    """Projection by likeness to landmarks, which `train.closed_form` chooses and weighs; see layers/kernel.py."""

    kind: Literal["kernel"] = "kernel"
    landmarks: int = Field(ge=1)
    parts: tuple[int, ...]  # widths of what stands side by side in the tower's pooled vector
    classes: int = Field(0, ge=0)  # the last part are that many logits
    gamma: float = Field(1.0, gt=0)
    temperature: float = Field(1.5, gt=0)  # of the logits

    def build(self, width: int, shared: int) -> nn.Module:
        if sum(self.parts) != width or (self.classes and self.parts[-1] != self.classes):
            raise ConfigError(
                f"kernel projection: parts {self.parts} with {self.classes} classes do not make up the tower's {width}"
            )
        return KernelProjection(self.parts, self.classes, shared, self.landmarks, self.gamma, self.temperature)


ProjectionConfig = Literal["linear", "affine", "mlp"] | KernelConfig


class ClipConfig(Config):
    kind: Literal["clip"] = "clip"
    image: ImageEncoderConfig
    text: TextEncoderConfig
    width: int | None = Field(512, ge=1)  # D; None: no projections, the towers' widths must agree
    image_projection: ProjectionConfig | None = "linear"  # None: the tower's vector as it is
    text_projection: ProjectionConfig | None = "linear"
    temperature: float = Field(0.07, ge=0.001, le=10)  # at the start of training; cosines are divided by it
    max_scale: float = Field(100.0, gt=0)  # ceiling on 1 / temperature; section 2.5: training is unstable above 100
    learn_temperature: bool = True
    bias: float | None = None  # at the start of training, added to the scaled cosines (SigLIP: -10)

    def model_post_init(self, context: object) -> None:
        if self.width is None and self.image.width != self.text.width:
            raise ValueError(
                f"width null means no projections, so the towers' widths must agree, got image {self.image.width} "
                f"and text {self.text.width}"
            )
        for name, tower, projection in (
            ("image", self.image, self.image_projection),
            ("text", self.text, self.text_projection),
        ):
            if self.width is not None and projection is None and tower.width != self.width:
                raise ValueError(
                    f"{name}_projection null needs {name}.width to be the shared width {self.width}, got {tower.width}"
                )

    @property
    def shared_width(self) -> int:
        """D."""
        return self.width or self.image.width

    def build(self) -> "Clip":
        return Clip(self)


class ClipOutput(NamedTuple):
    image: Tensor  # (B, D), unit length
    text: Tensor  # (B, D), unit length
    scale: Tensor  # (), 1 / temperature
    bias: Tensor | None  # (), added to scale · cosine


class Clip(nn.Module):
    forms: Forms = Forms()  # what compression has made of it

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = config.image.build()
        self.text_encoder = config.text.build()
        projected = config.width is not None
        self.image_projection = projection(
            config.image_projection if projected else None, config.image.width, config.shared_width
        )
        self.text_projection = projection(
            config.text_projection if projected else None, config.text.width, config.shared_width
        )
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)), config.learn_temperature)
        self.bias = None if config.bias is None else nn.Parameter(torch.tensor(float(config.bias)))

    def forward(self, pixels: Tensor, text: Text) -> ClipOutput:
        return ClipOutput(self.embed_image(pixels), self.embed_text(text), self.log_scale.exp(), self.bias)

    def embed_image(self, pixels: Tensor) -> Tensor:
        """Unit vectors (B, D) of normalized pixels (B, 3, H, W)."""
        return normalize(self.image_projection(self.image_encoder(pixels).pooled), dim=-1)

    def embed_text(self, text: Text) -> Tensor:
        """Unit vectors (B, D) of texts (B, L)."""
        return normalize(self.text_projection(self.text_encoder(text).pooled), dim=-1)

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Hold the scale at or below its ceiling; to be called after every optimizer step."""
        self.log_scale.clamp_(max=math.log(self.config.max_scale))


def projection(kind: ProjectionConfig | None, width: int, shared: int) -> nn.Module:
    """From a tower's width to the shared one.

    linear: without bias, as CLIP has it; affine: with one; mlp: open_clip's, a GELU half way.
    """
    if kind is None:
        return nn.Identity()
    if isinstance(kind, KernelConfig):
        return kind.build(width, shared)
    if kind == "mlp":
        middle = (width + shared) // 2
        return nn.Sequential(nn.Linear(width, middle, bias=False), nn.GELU(), nn.Linear(middle, shared, bias=False))
    linear = nn.Linear(width, shared, bias=kind == "affine")
    nn.init.normal_(linear.weight, std=width**-0.5)  # openai/CLIP, clip/model.py
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear
