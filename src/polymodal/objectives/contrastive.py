"""Contrastive objectives: among B texts, find the one of each picture, and the reverse.

Shapes: B pairs; D width of the shared space. `same` is (B, B) bool, True where the picture of row i and the text of
row j belong together though i is not j (see `pairs.belongs`): such cells are left out, never counted as negatives.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from polymodal.config import Config
from polymodal.errors import ConfigError, ShapeError
from polymodal.objectives.pairs import Pairs, Step
from polymodal.types import StepResult


def info_nce(image: Tensor, text: Tensor, scale: Tensor, same: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of the two directions, in nats; log(B) is chance.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3. Leaving out what belongs together is ours.

    Args:
        image: (B, D), unit length. Row i belongs with row i of `text`.
        text: (B, D), unit length.
        scale: (), multiplies the cosines; 1 / temperature.
        same: (B, B) bool or None.

    Raises:
        ShapeError: `image` and `text` differ in shape.
    """
    logits_BB = scale * _cosines("info_nce", image, text)
    logits_BB = logits_BB.masked_fill(_others(same, logits_BB), -math.inf)
    own_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return (cross_entropy(logits_BB, own_B) + cross_entropy(logits_BB.T, own_B)) / 2


def siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, same: Tensor | None = None) -> Tensor:
    """Sum over all B x B cells of the binary cross-entropy "do they belong together?", by B, in nats.

    It has no softmax over the batch, so small batches lose less. Untrained, at scale 10 and bias -10, it is near 10,
    nearly all of it from the B cells that belong together.

    Source: Zhai et al. 2023, arXiv:2303.15343, algorithm 1 (start: scale 10, bias -10).

    Args:
        image: (B, D), unit length. Row i belongs with row i of `text`.
        text: (B, D), unit length.
        scale: (), multiplies the cosines.
        bias: (), added to the logits.
        same: (B, B) bool or None.

    Raises:
        ShapeError: `image` and `text` differ in shape.
    """
    logits_BB = scale * _cosines("siglip", image, text) + bias
    signs_BB = 2 * torch.eye(len(logits_BB), device=logits_BB.device, dtype=logits_BB.dtype) - 1
    cells_BB = logsigmoid(signs_BB * logits_BB).masked_fill(_others(same, logits_BB), 0)
    return -cells_BB.sum() / len(logits_BB)


def hard_negative(image: Tensor, text: Tensor, margin: float, same: Tensor | None = None) -> Tensor:
    """Mean over pairs of how far the hardest negative of each direction comes within `margin`, in cosines; 0 is best.

    Source: Faghri et al. 2018 (VSE++), arXiv:1707.05612, equation 6; the mean over the batch in place of the sum, so
    that the learning rate does not depend on the batch size.

    Args:
        image: (B, D), unit length. Row i belongs with row i of `text`.
        text: (B, D), unit length.
        margin: by how much a pair's cosine must exceed that of every negative.
        same: (B, B) bool or None.

    Raises:
        ShapeError: `image` and `text` differ in shape.
    """
    cosines_BB = _cosines("hard_negative", image, text)
    own_B = cosines_BB.diagonal()
    itself_BB = torch.eye(len(own_B), dtype=torch.bool, device=own_B.device)
    negatives_BB = cosines_BB.masked_fill(itself_BB | _others(same, cosines_BB), -math.inf)
    text_misses_B = (margin + negatives_BB.amax(1) - own_B).clamp(min=0)
    image_misses_B = (margin + negatives_BB.amax(0) - own_B).clamp(min=0)
    return (text_misses_B + image_misses_B).mean()


def _cosines(name: str, image: Tensor, text: Tensor) -> Tensor:
    if image.shape != text.shape or image.ndim != 2:
        raise ShapeError(
            f"{name}: image and text must have the same shape (B, D), got {tuple(image.shape)} and {tuple(text.shape)}"
        )
    # Never in half precision: at scale 100 a step of bfloat16 near 1 is worth 0.4 nats.
    with torch.autocast(image.device.type, enabled=False):
        dtype = torch.promote_types(image.dtype, torch.float32)
        return image.to(dtype) @ text.to(dtype).T


def _others(same: Tensor | None, like: Tensor) -> Tensor:
    """(B, B) bool: belongs together, but is not the diagonal."""
    if same is None:
        return torch.zeros((), dtype=torch.bool, device=like.device)
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)


class InfoNceConfig(Config):
    kind: Literal["info_nce"] = "info_nce"
    weight: float = Field(1.0, gt=0)

    def build(self) -> "InfoNce":
        return InfoNce(self)


class InfoNce:
    """CLIP's objective. The model says whether its temperature is learned (`model.learn_temperature`)."""

    reads = frozenset({"scale"})

    def __init__(self, config: InfoNceConfig) -> None:
        self.weight = config.weight

    def step(self, step: Step) -> StepResult:
        pairs = step.pairs
        loss = info_nce(pairs.image, pairs.text, pairs.scale, pairs.same)
        return StepResult(loss, _shown("info_nce", loss, pairs))


class SiglipConfig(Config):
    kind: Literal["siglip"] = "siglip"
    weight: float = Field(1.0, gt=0)

    def build(self) -> "Siglip":
        return Siglip(self)


class Siglip:
    """SigLIP's objective; the model needs a bias."""

    reads = frozenset({"scale", "bias"})

    def __init__(self, config: SiglipConfig) -> None:
        self.weight = config.weight

    def step(self, step: Step) -> StepResult:
        pairs = step.pairs
        if pairs.bias is None:
            raise ConfigError("objective siglip: the model has no bias for its logits; set model.bias=-10")
        loss = siglip(pairs.image, pairs.text, pairs.scale, pairs.bias, pairs.same)
        return StepResult(loss, _shown("siglip", loss, pairs) | {"bias": pairs.bias.detach()})


class HardNegativeConfig(Config):
    kind: Literal["hard_negative"] = "hard_negative"
    weight: float = Field(1.0, gt=0)
    margin: float = Field(0.2, gt=0, le=2)  # in cosines; VSE++ section 4.2

    def build(self) -> "HardNegative":
        return HardNegative(self)


class HardNegative:
    """VSE++'s objective: only the hardest negative counts. It reads no temperature."""

    reads: frozenset[str] = frozenset()

    def __init__(self, config: HardNegativeConfig) -> None:
        self.weight = config.weight
        self.margin = config.margin

    def step(self, step: Step) -> StepResult:
        pairs = step.pairs
        loss = hard_negative(pairs.image, pairs.text, self.margin, pairs.same)
        return StepResult(loss, _shown("hard_negative", loss, pairs))


def _shown(name: str, loss: Tensor, pairs: Pairs) -> dict[str, Tensor]:
    """What a training log wants to know: the loss, the scale, and how often a picture's own text is the nearest."""
    with torch.no_grad():
        cosines_BB = _cosines(name, pairs.image, pairs.text)
        nearest = cosines_BB.masked_fill(_others(pairs.same, cosines_BB), -math.inf).argmax(1)
        right = nearest == torch.arange(len(nearest), device=nearest.device)
    return {name: loss.detach(), "scale": pairs.scale.detach(), "batch_accuracy": right.float().mean()}
