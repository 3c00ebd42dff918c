"""Masked autoencoders: an encoder sees a quarter of the patches, a small decoder gives back the pixels of the rest.

Source: He et al. 2022, arXiv:2111.06377; code facebookresearch/mae, models_mae.py. The encoder's positions stay those
of its config, learned ones, where the source has fixed ones; the decoder's are fixed.
Shapes: B pictures; L patches, K of them open; P pixels of a patch's side; D width.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from polymodal.config import Config
from polymodal.encoders.vit import Vit, VitConfig
from polymodal.errors import ConfigError
from polymodal.features import Features
from polymodal.layers.positions import fit_grid
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import MaeDecoder, MaeDecoderConfig, PretrainingHeadConfig
from polymodal.objectives.joint_step import JointObjective, JointStep, Known
from polymodal.objectives.masked_image import check_is_image, normalize_cells, patchify
from polymodal.types import StepResult


class MaeConfig(Config):
    kind: Literal["mae"] = "mae"
    weight: float = Field(1.0, gt=0)
    input: str = "image"  # of a ViT with a class token
    head: str = "mae"  # its name in `model.pretraining`, and of the loss in logs
    rate: float = Field(0.75, gt=0, lt=1)  # of the patches that the encoder does not see
    normalize: bool = True  # the pixels of each patch by their own mean and variance (norm_pix_loss)
    width: int = Field(512, ge=4, multiple_of=4)  # of the decoder, whose defaults are the source's
    layers: int = Field(8, ge=1, le=1000)
    heads: int = Field(16, ge=1)

    def build(self, known: Known) -> "Mae":
        check_is_image(self.kind, self.input, known.features)
        return Mae(self)


def shuffled(noise: Tensor, rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """MAE's masking: patches that stay open (B, K), each one's place in the shuffled order (B, L), hidden ones (B, L).

    Args:
        noise: (B, L); the K = L (1 - rate) lowest stay open.
    """
    order = noise.argsort(1)
    restore = order.argsort(1)
    kept = int(noise.shape[1] * (1 - rate))
    return order[:, :kept], restore, restore >= kept


def mae_loss(predicted: Tensor, pixels: Tensor, hidden: Tensor, side: int, normalize: bool = True) -> Tensor:
    """Mean squared error over hidden patches only.

    Args:
        predicted: (B, L, 3 P²).
        pixels: (B, 3, H, W), normalized.
        hidden: (B, L) bool.
        normalize: whether each patch is first normalized by itself.
    """
    cells = patchify(pixels, side)
    errors = (predicted.float() - (normalize_cells(cells) if normalize else cells)).square().mean(-1)
    return torch.where(hidden, errors, 0).sum() / hidden.sum().clamp(min=1)


def look_at(vit: Vit, pixels: Tensor, kept: Tensor) -> Tensor:
    """What the encoder says of its class token and of the patches `kept` (B, K), (B, 1 + K, D); it sees no others."""
    assert vit.class_token is not None
    x, height, width = vit.patches(pixels)
    positions = fit_grid(vit.positions, height, width, leading=1).to(x.dtype)
    x = (x + positions[1:]).gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
    first = (vit.class_token.to(x.dtype) + positions[0]).expand(len(x), 1, -1)
    seen: Tensor = vit.post_norm(vit.blocks(vit.pre_norm(torch.cat([first, x], 1))))
    return seen


class Mae(JointObjective):
    """It trains the encoder alone: neither the fusion nor other inputs have a part in it."""

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = config.weight

    def heads(self, config: MultimodalConfig, features: Features) -> dict[str, PretrainingHeadConfig]:
        encoder = config.encoders[self.config.input]
        if not isinstance(encoder, VitConfig) or not encoder.class_token:
            raise ConfigError(
                f'objective mae: encoder "{self.config.input}" must be a vit with class_token, got {encoder.kind}; '
                "masked_image works with every image encoder"
            )
        sizes = {"width": self.config.width, "layers": self.config.layers, "heads": self.config.heads}
        return {self.config.head: MaeDecoderConfig(input=self.config.input, cell=encoder.patch_size, **sizes)}

    def step(self, step: JointStep) -> StepResult:
        vit, decoder = step.model.encoders[self.config.input], step.model.pretraining[self.config.head]
        assert isinstance(vit, Vit)
        assert isinstance(decoder, MaeDecoder)
        pixels = step.batch.inputs.get(self.config.input)
        if not isinstance(pixels, Tensor) or not step.batch.present[self.config.input].any():
            loss = decoder.mask_token[:0].sum()  # 0: no picture in this batch
            return StepResult(loss, {self.config.head: loss.detach()})
        pixels, side = pixels[step.batch.present[self.config.input]], decoder.config.cell
        grid = pixels.shape[2] // side, pixels.shape[3] // side
        kept, restore, hidden = shuffled(step.uniform(len(pixels), grid[0] * grid[1]), self.config.rate)
        predicted = decoder(look_at(vit, pixels, kept), restore, grid)
        loss = mae_loss(predicted, pixels, hidden, side, self.config.normalize)
        return StepResult(loss, {self.config.head: loss.detach()})
