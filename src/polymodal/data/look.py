"""One look at a picture file: whether it can be used, how large it is, and what it looks like in a few bytes."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from polymodal.data.decode import FORMAT_OF, PictureError, broken, describe, flatten, open_header, read_bytes

WHITE = (255, 255, 255)
# Bits of 64 in which the perceptual hashes of near duplicates differ. Of 60 crops of photos, encoded again as JPEG
# (quality 50 to 90), halved, blurred or made 10 % brighter, 98 % or more stay within 3; others are 12 or more apart.
MAX_DISTANCE = 3
MAX_DIFFERENCE = 16  # mean difference of their 4 x 4 colors, in grey levels
CROWD = 4096  # pictures in one bucket that are all compared with each other


class Look(NamedTuple):
    content: int  # 64-bit hash of the file's bytes
    perceptual: int  # 64-bit perceptual hash
    colors: NDArray[np.uint8]  # (4, 4, 3)
    width: int
    height: int
    size: int  # bytes
    format: str  # Pillow's name of it


def look(reference: str | bytes, root: Path) -> Look:
    """Everything that `check` wants to know, from one decoding.

    The perceptual hash is `imagehash.phash`: the lowest 8 x 8 frequencies against their median. It does not see
    color, which is why the 4 x 4 colors are kept too.

    Raises:
        PictureError: the picture cannot be used.
    """
    content = read_bytes(reference, root)
    name = describe(reference)
    image = open_header(content, name)
    width, height, kind = *image.size, image.format or ""
    try:
        image.draft("RGB", (128, 128))  # JPEG decodes at a fraction of its size, reading all of its bytes still
        image.load()
        small = flatten(image, WHITE).resize((64, 64), Image.Resampling.BILINEAR, reducing_gap=2)
    except PictureError:
        raise
    except Exception as error:  # Pillow's plugins raise anything at all on damaged bytes
        raise broken(name, error) from None
    bits = imagehash.phash(small).hash.flatten()
    return Look(
        content=int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"),
        perceptual=int.from_bytes(np.packbits(bits).tobytes(), "little"),
        colors=np.asarray(small.resize((4, 4), Image.Resampling.BOX)),
        width=width,
        height=height,
        size=len(content),
        format=kind,
    )


def wrong_ending(reference: str | bytes, found: str) -> str | None:
    """The ending of a path, or the type of a data URI, if another format than the one found is meant by it."""
    if isinstance(reference, bytes):
        return None
    if declared := re.match(r"data:image/([\w.+-]+)[;,]", reference):
        return None if FORMAT_OF.get(f".{declared[1].lower()}", found) == found else f"image/{declared[1]}"
    ending = os.path.splitext(re.sub(r"@\d+\+\d+$", "", reference))[1] if len(reference) < 1000 else ""
    # A camera's multi-picture JPEG opens as MPO.
    return None if FORMAT_OF.get(ending.lower(), found) == found or found == "MPO" else ending


# ---------------------------------------------------------------------------------------------------------------------
# Near duplicates


def near_pairs(
    hashes: NDArray[np.uint64], colors: NDArray[np.uint8], found: Callable[[NDArray[np.int64], NDArray[np.int64]], None]
) -> None:
    """Calls `found(first, second)` with places of pictures that look alike, first < second; a pair may come twice.

    Two hashes that differ in at most 3 of 64 bits agree in one of four bands of 16 bits (pigeonhole), so only pictures
    that share a band are compared: not all with all. When more than CROWD pictures share one, each is compared with
    the next 256 in the order of the whole hash only.

    Args:
        hashes: (N,), perceptual hashes.
        colors: (N, 4, 4, 3).
    """
    flat = colors.reshape(len(colors), -1).astype(np.int16)
    for band in range(MAX_DISTANCE + 1):
        keys = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.lexsort((hashes, keys))
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        for bucket in np.split(order, edges):
            for one, others in _comparisons(bucket):
                _compare(hashes, flat, one, others, found)


def _comparisons(bucket: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    if len(bucket) < 2:
        return []
    if len(bucket) <= CROWD:
        step = max(1, 2**20 // len(bucket))
        return [(bucket[start : start + step], bucket) for start in range(0, len(bucket), step)]
    return [(bucket[start : start + 256], bucket[start : start + 512]) for start in range(0, len(bucket), 256)]


def _compare(
    hashes: NDArray[np.uint64],
    colors: NDArray[np.int16],
    ones: NDArray[np.int64],
    others: NDArray[np.int64],
    found: Callable[[NDArray[np.int64], NDArray[np.int64]], None],
) -> None:
    different = np.ascontiguousarray(hashes[ones][:, None] ^ hashes[others][None, :])
    distance = _BITS[different.view(np.uint16)].reshape(*different.shape, 4).sum(-1)
    rows, columns = np.nonzero(distance <= MAX_DISTANCE)
    first, second = ones[rows], others[columns]
    keep = first < second
    first, second = first[keep], second[keep]
    for start in range(0, len(first), 2**16):
        a, b = first[start : start + 2**16], second[start : start + 2**16]
        alike = np.abs(colors[a] - colors[b]).mean(1) <= MAX_DIFFERENCE
        found(a[alike], b[alike])


_BITS = np.array([value.bit_count() for value in range(2**16)], np.uint8)
