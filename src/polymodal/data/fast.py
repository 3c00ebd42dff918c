"""The fast way of `preprocess.decoding`: JPEG decoded at a fraction of its size, and resizing in integer vectors.

Pictures stay uint8. Shapes: H, W height and width of what was decoded.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

ORIENTATION = 0x0112  # EXIF's tag
# A decoded picture keeps at least so many times the pixels a side that the model sees. At 2, as in Pillow's thumbnails
# (`reducing_gap`), the resizing that follows still decides how the picture looks: of photos of 1,920 to 4,000 pixels
# EfficientNet-Lite's vectors keep a cosine of 0.9998 with the exact ones (`benchmarks/media.py`); at 1 it is 0.998.
GAP = 2.0


def reduced(content: bytes, header: Image.Image, side: int) -> NDArray[np.uint8] | None:
    """The upright picture of a JPEG, (H, W, 3) RGB, its shorter side at least GAP · side, or as long as it is.

    It comes at a half, quarter or eighth of its size where both sides can be divided so. At other sizes the last column
    would stand for part of one only, and all others would shift; at other fractions libjpeg-turbo is slower than at 1.

    Args:
        header: the file as Pillow opened it, its pixels not decoded.

    Returns:
        None for what only Pillow can read, or tell the faults of: other formats, CMYK, damaged files.
    """
    if header.format not in ("JPEG", "MPO") or header.mode not in ("RGB", "L"):
        return None
    width, height = header.size
    scale = _scale(width, height, side)
    try:
        pixels = simplejpeg.decode_jpeg(content, "RGB", min_height=height // scale, min_width=width // scale)
    except ValueError:  # any warning of the decoder; Pillow knows which of them matter
        return None
    if pixels.shape != (height // scale, width // scale, 3):
        return None  # several pictures in a file, of which Pillow and libjpeg-turbo chose different ones
    return _upright(pixels, header.getexif().get(ORIENTATION, 1))


def _scale(width: int, height: int, side: int) -> int:
    """n of the scale 1 / n."""
    shortest = min(width, height)
    return max((n for n in (2, 4, 8) if width % n == height % n == 0 and shortest >= n * GAP * side), default=1)


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turned and mirrored as EXIF's tag says, 1 to 8."""
    turns: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
        2: lambda shown: shown[:, ::-1],
        3: lambda shown: shown[::-1, ::-1],
        4: lambda shown: shown[::-1],
        5: lambda shown: shown.transpose(1, 0, 2),
        6: lambda shown: shown.transpose(1, 0, 2)[:, ::-1],
        7: lambda shown: shown[::-1, ::-1].transpose(1, 0, 2),
        8: lambda shown: shown.transpose(1, 0, 2)[::-1],
    }
    turn = turns.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def resized(pixels: NDArray[np.uint8], width: int, height: int, interpolation: str) -> NDArray[np.uint8]:
    """(height, width, 3) of (H, W, 3), as Pillow's `resize` makes it to within a level or two.

    torch's kernel works on AVX2 or NEON vectors, four times as fast as Pillow's. A process that does its work without
    torch is not made to load it for this: then it is Pillow.

    Args:
        interpolation: bicubic or bilinear.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling[interpolation.upper()]))
    given = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    found = torch.nn.functional.interpolate(given, (height, width), mode=interpolation, antialias=True)
    shown: NDArray[np.uint8] = found[0].permute(1, 2, 0).numpy()
    return shown
