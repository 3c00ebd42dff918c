"""What passes between the parts.

Shapes: B rows of a batch; L tokens or time steps; R regions; D width; C, H, W image channels, height, width.
"""

from collections.abc import Mapping
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


class Record(NamedTuple):
    """The numbers and categories of B rows; N columns of numbers, K of categories."""

    numbers: Tensor  # (B, N) float32, scaled; 0 where missing
    missing: Tensor  # (B, N) bool, True where a row has no number
    categories: Tensor  # (B, K) int64: 0 missing, 1 not seen in training, from 2 on the known values


class Series(NamedTuple):
    """Steps of several channels each: a sensor, a behaviour, the log-mel frames of a sound."""

    values: Tensor  # (B, L, C) float32, scaled
    mask: Tensor  # (B, L) bool, True at real steps


class Regions(NamedTuple):
    """Parts of pictures, by a detector or by a grid."""

    features: Tensor  # (B, R, F) float32
    boxes: Tensor  # (B, R, 4) float32: x1, y1, x2, y2 as shares of the picture's width and height, 0 to 1
    mask: Tensor  # (B, R) bool, True at real regions
    classes: Tensor | None = None  # (B, R, K) float32, the detector's distribution over its K classes


# A Tensor: pixels (B, 3, H, W), uint8 as the data gives them, normalized floats as a model takes them. Tokens: what the
# input's encoder said before, which is not run again.
Input = Tensor | Text | Record | Series | Regions | Tokens


class Batch(NamedTuple):
    """Rows of a table with several inputs and several targets, any of which a row may lack."""

    inputs: Mapping[str, Input]  # by the input's name
    present: Mapping[str, Tensor]  # (B,) bool, by the input's name; where False the content does not matter
    targets: Mapping[str, Tensor]  # (B, ...) by the target's name; where not known the content does not matter
    known: Mapping[str, Tensor]  # (B, ...) bool, by the target's name
    rows: Tensor  # (B,) int64, row numbers in the manifest


class Fused(NamedTuple):
    """What every fusion gives back."""

    pooled: Tensor  # (B, fusion.width)
    tokens: dict[str, Tokens]  # each input's states after the fusion, of width fusion.widths[name]
    maps: dict[str, Tensor]  # what one can look at: attention, gates, weights; empty unless asked for


class StepResult(NamedTuple):
    """What an objective gives back: only `loss` is differentiated, only `log` is shown."""

    loss: Tensor  # ()
    log: dict[str, Tensor]
