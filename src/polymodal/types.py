"""What passes between the parts.

Shapes: B rows of a batch; L tokens; D width; C, H, W image channels, height, width.
"""

from typing import NamedTuple

from torch import Tensor


class Tokens(NamedTuple):
    """What every encoder gives back."""

    sequence: Tensor  # (B, L, D)
    mask: Tensor  # (B, L) bool, True where there is something
    pooled: Tensor  # (B, D)


class Text(NamedTuple):
    """Tokenized texts, trimmed to the longest of the batch."""

    ids: Tensor  # (B, L) int64
    mask: Tensor  # (B, L) bool, True at real tokens

    def to(self, device: str) -> "Text":
        return Text(self.ids.to(device), self.mask.to(device))


class ImageTextBatch(NamedTuple):
    """Pairs: row i of `pixels` belongs with row i of `text`."""

    pixels: Tensor  # (B, C, H, W) uint8; the model's side normalizes
    text: Text
    rows: Tensor  # (B,) int64, row numbers in the manifest, so that a bad batch can be traced


class StepResult(NamedTuple):
    """What an objective gives back: only `loss` is differentiated, only `log` is shown."""

    loss: Tensor  # ()
    log: dict[str, Tensor]
