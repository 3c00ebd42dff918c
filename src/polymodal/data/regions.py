"""Regions of a picture that a detector or a grid left in a file: features and boxes, and perhaps its classes.

A .npz has `features` (R, F) and `boxes` (R, 4) as x1, y1, x2, y2: shares of the picture, or pixels beside `image_w` and
`image_h`, and optionally `cls_prob` (R, K), as files made by bottom-up attention have. Shapes: R regions.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymodal.data.faults import CellError
from polymodal.data.series import read_arrays

NAMES = {
    "features": ("features", "x", "feat"),
    "boxes": ("boxes", "bbox"),
    "classes": ("cls_prob", "classes", "probabilities"),
    "width": ("image_w", "image_width", "width"),
    "height": ("image_h", "image_height", "height"),
}
OUTSIDE = 0.01  # of the picture's side; detectors round their boxes, so that this much is cut off without a word


class RegionFile(NamedTuple):
    features: NDArray[np.float32]  # (R, F)
    boxes: NDArray[np.float32]  # (R, 4), x1, y1, x2, y2, 0 to 1
    classes: NDArray[np.float32] | None  # (R, K)


def read_regions(value: Any, root: Path | None = None) -> RegionFile:
    """The regions of one cell.

    Args:
        value: a path of a .npz, its bytes, or a mapping with the same names.
        root: folder that a relative path is relative to.

    Raises:
        CellError: there is no such file, it is damaged, lacks features or boxes, their numbers differ, a feature is not
            finite, or a box is empty or lies outside the picture.
    """
    name, arrays = read_arrays(value, root, frozenset(key for keys in NAMES.values() for key in keys))
    found = {part: next((arrays[key] for key in keys if key in arrays), None) for part, keys in NAMES.items()}
    features, boxes, classes = found["features"], found["boxes"], found["classes"]
    if features is None or boxes is None:
        reason = f"has no features or no boxes (it has {', '.join(arrays) or 'neither'})"
        raise CellError(name, "no-regions", reason, "save both by numpy.savez(file, features=..., boxes=...)")
    count = len(features) if features.ndim == 2 else 0
    if count == 0 or boxes.shape != (count, 4) or (classes is not None and classes.shape[:1] != (count,)):
        shapes = ", ".join(f"{part} {array.shape}" for part, array in found.items() if array is not None and array.ndim)
        raise CellError(name, "wrong-shape", f"has {shapes}, wanted (R, F), (R, 4) and (R, K)", "save it so")
    if not (np.isfinite(features).all() and np.isfinite(boxes).all()):
        raise CellError(name, "not-finite", "has features or boxes that are not finite", "make it again")
    return RegionFile(
        features.astype(np.float32),
        _shares(name, boxes.astype(np.float32), found["width"], found["height"]),
        None if classes is None else classes.astype(np.float32).reshape(count, -1),
    )


def _shares(
    name: str, boxes: NDArray[np.float32], width: NDArray[Any] | None, height: NDArray[Any] | None
) -> NDArray[np.float32]:
    if width is not None and height is not None:
        boxes = boxes / np.array([width, height, width, height], np.float32).reshape(4)
    elif boxes.max() > 1 + OUTSIDE:
        reason = f"has boxes up to {boxes.max():g} and no image_w and image_h"
        raise CellError(name, "box-outside", reason, "save boxes as shares of the picture, 0 to 1, or its size too")
    outside = (boxes < -OUTSIDE).any(1) | (boxes > 1 + OUTSIDE).any(1)
    if outside.any():
        first = ", ".join(f"{side:.3g}" for side in boxes[outside][0])
        reason = f"has {outside.sum()} of {len(boxes)} boxes outside the picture, first ({first}) in shares of it"
        raise CellError(name, "box-outside", reason, "correct the boxes or the picture's size")
    if (empty := (boxes[:, 2:] < boxes[:, :2]).any(1)).any():
        reason = f"has {empty.sum()} of {len(boxes)} boxes whose end is before their start"
        raise CellError(name, "box-turned", reason, "write boxes as x1, y1, x2, y2")
    return boxes.clip(0, 1)
