"""Pictures in any shape that callers hold them, decoded in threads ahead of the model.

Shapes: S side of the square that the model sees.
"""

import os
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from polymodal.data.decode import read_pixels, to_array
from polymodal.errors import DataError
from polymodal.preprocess import ImagePreprocess

Pixels = NDArray[np.uint8]  # (3, S, S), not normalized
# A path, the bytes of a file, base64 as a `data:` URI, an opened picture, or (H, W, 3) uint8 RGB.
Picture = str | Path | bytes | Image.Image | NDArray[np.uint8]

DECODERS = min(8, os.cpu_count() or 1)  # threads; files are decoded and resized without the interpreter's lock


def identity(picture: Picture) -> Hashable:
    """Equal for pictures that are sure to be the same: equal paths, URIs or bytes, or the very same object."""
    return picture if isinstance(picture, str | bytes | Path) else id(picture)


def decode(picture: Picture, preprocess: ImagePreprocess, root: Path) -> Pixels:
    """What the model sees of a picture.

    Raises:
        DataError: it cannot be read as a picture.
    """
    if isinstance(picture, str | Path | bytes):
        return read_pixels(picture, root, preprocess)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise DataError(f"an array must be (height, width, 3) uint8 RGB, got {picture.shape} {picture.dtype}")
        return to_array(Image.fromarray(picture), preprocess)
    if not isinstance(picture, Image.Image):
        raise DataError(f"wanted a path, bytes, a data: URI, a PIL picture or an array, got {type(picture).__name__}")
    try:
        return to_array(picture, preprocess)
    except (OSError, ValueError, SyntaxError) as error:  # PIL reads the pixels of an opened file only now
        raise DataError(f"the PIL picture cannot be read: {error}") from None


def decoded(
    pictures: Sequence[Picture], work: Callable[[Picture], Pixels], batch_size: int
) -> Iterator[list[tuple[int, Pixels | DataError]]]:
    """Batches of (place, pixels or why there are none), in order; up to two batches are decoded ahead."""

    def attempt(picture: Picture) -> Pixels | DataError:
        try:
            return work(picture)
        except DataError as error:
            return error

    if len(pictures) == 1:  # one question is answered sooner without a thread
        yield [(0, attempt(pictures[0]))]
        return
    with ThreadPoolExecutor(DECODERS) as pool:
        ahead: deque[Future[Pixels | DataError]] = deque()
        todo = iter(pictures)
        try:
            for start in range(0, len(pictures), batch_size):
                ahead += [pool.submit(attempt, picture) for picture in islice(todo, 3 * batch_size - len(ahead))]
                count = min(batch_size, len(pictures) - start)
                yield [(start + place, ahead.popleft().result()) for place in range(count)]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a caller that stops early waits for nothing
