"""What the objectives see of one training step.

Shapes: B pairs; D width of the shared space.
"""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from polymodal.types import ImageTextBatch, StepResult

if TYPE_CHECKING:
    from polymodal.models.clip import Clip


class Pairs(NamedTuple):
    """Vectors of B pairs, those of all processes together."""

    image: Tensor  # (B, D), unit length
    text: Tensor  # (B, D), unit length; row i belongs with row i of `image`
    scale: Tensor  # (), 1 / temperature
    bias: Tensor | None = None  # (), added to the logits; only models trained by SigLIP have one
    same: Tensor | None = None  # (B, B) bool, see `belongs`; None: only the diagonal belongs together


class Step:
    """One training step: the model, its batch, and the vectors of the pairs, worked out once and when asked for."""

    def __init__(self, model: "Clip", batch: ImageTextBatch, embed: Callable[[], Pairs]) -> None:
        self.model = model
        self.batch = batch  # the rows of this process
        self._embed = embed

    @cached_property
    def pairs(self) -> Pairs:
        return self._embed()


class Objective(Protocol):
    """A loss with its settings. Losses add up, each times its weight."""

    weight: float
    reads: frozenset[str]  # which of the model's "scale" and "bias" get a gradient from it

    def step(self, step: Step) -> StepResult: ...


def belongs(pictures: Tensor, captions: Tensor) -> Tensor | None:
    """(B, B) bool: the picture of row i stands in this batch beside the caption of row j, in whichever row.

    Two captions of one picture, or one caption of two pictures, are not each other's negatives: pushing them apart
    would teach the model that a true answer is false.

    Args:
        pictures: (B,) int64, equal numbers for equal pictures.
        captions: (B,) int64, equal numbers for equal captions.

    Returns:
        None when every picture and every caption occurs once, which is the usual case and needs no mask.
    """
    kinds_of_picture, picture = pictures.unique(return_inverse=True)
    kinds_of_caption, caption = captions.unique(return_inverse=True)
    count = len(pictures)
    if len(kinds_of_picture) == count == len(kinds_of_caption):
        return None
    occurs = torch.zeros(len(kinds_of_picture), len(kinds_of_caption), dtype=torch.bool, device=pictures.device)
    occurs[picture, caption] = True
    return occurs[picture][:, caption]
