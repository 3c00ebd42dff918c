"""Picture reference -> upright PIL picture -> uint8 pixels, the same way in training, evaluation and use.

With `decoding: exact` equal, bit for bit, to `transformers`' CLIPImageProcessorPil (fit=crop) and
SiglipImageProcessorPil (fit=squash) before normalization, for pictures without transparency, EXIF rotation or more than
8 bits, which it gets wrong, and of which no side is more than MAX_RATIO times the other. With `decoding: fast` large
JPEGs are decoded at a fraction of their size and all pictures resized by vector instructions, see `data/fast`.
"""

import base64
import binascii
import io
import re
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from polymodal.data import fast
from polymodal.data.faults import CellError
from polymodal.preprocess import ImagePreprocess

if TYPE_CHECKING:  # the engine decodes pictures without torch where its backend needs none
    from torch import Tensor

# Pillow's format of each ending. Raster formats only: Pillow hands EPS to Ghostscript, which runs programs.
FORMAT_OF = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".webp": "WEBP", ".gif": "GIF",
    ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".avif": "AVIF",
    ".jp2": "JPEG2000", ".ico": "ICO", ".tga": "TGA", ".qoi": "QOI",
}  # fmt: skip
EXTENSIONS = frozenset(FORMAT_OF)
FORMATS = tuple(sorted(set(FORMAT_OF.values())))
MAX_PIXELS = 89_478_485  # Pillow's own threshold for a decompression bomb: 256 MiB at 3 bytes a pixel
MAX_RATIO = 128  # of the sides of a picture that is cropped to a square
MAX_BYTES = 512 * 2**20  # of one file
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"qoif", b"\x00\x00\x00\x0cjP")
_BASE64_STARTS = ("/9j/", "iVBORw0K", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0A", "AAAA")
_MEMBER = re.compile(r"(?P<tar>.+?\.tar)#(?P<name>.+?)(?:@(?P<offset>\d+)\+(?P<size>\d+))?", re.DOTALL)


class PictureError(CellError):
    """A picture cannot be used."""


def open_image(reference: str | bytes | Path, root: Path | None = None, side: int | None = None) -> Image.Image:
    """The upright picture, in mode RGB, or RGBA when something in it is transparent.

    Args:
        reference: a path, a file's bytes, base64 (with or without `data:image/png;base64,`), or `shard.tar#member`.
        root: folder that a relative path is relative to.
        side: pixels of the shorter side that will be seen in the end; a JPEG may come smaller than it is then, as
            `fast.reduced` says. None: exactly as Pillow decodes it.

    Raises:
        DataError: missing, empty, not a picture, truncated, or of more than MAX_PIXELS; the message says which.
    """
    content = read_bytes(reference, root)
    return decode(content, describe(reference), side)


def decode(content: bytes, name: str, side: int | None = None) -> Image.Image:
    """The upright picture that a file's bytes hold; `name` is what errors call it, `side` as in `open_image`.

    Raises:
        DataError: as `open_image`.
    """
    header = open_header(content, name)
    pixels = None if side is None else fast.reduced(content, header, side)
    return _decode(header, name) if pixels is None else Image.fromarray(pixels)


def _decode(header: Image.Image, name: str) -> Image.Image:
    try:
        header.load()
        return upright(header)
    except Exception as error:  # Pillow's plugins raise anything at all on damaged bytes
        raise broken(name, error) from None


def broken(name: str, error: Exception) -> PictureError:
    """What to raise when Pillow has given up on the pixels."""
    kind = "truncated" if isinstance(error, EOFError) or "truncated" in str(error) else "unreadable"
    return PictureError(name, kind, f"is damaged or cut off ({error})", "fetch it again or leave it out")


def open_header(content: bytes, name: str) -> Image.Image:
    """The picture with its size and format known and its pixels not decoded yet.

    Raises:
        DataError: empty, not a picture, or of more than MAX_PIXELS.
    """
    if not content:
        raise PictureError(name, "empty-file", "is empty (0 bytes)", "fetch it again or leave it out")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(name, "bomb", f"has too many pixels ({error})", "scale it down first") from None
    except Exception:  # see `decode`
        if is_picture(content[:16]):  # as a WebP that is cut off anywhere: its header is not read without the rest
            raise _damaged(name, content) from None
        reason = f"is not a picture ({_looks_like(content)})"
        raise PictureError(name, "not-a-picture", reason, "leave it out, or give another column") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        reason = f"has too many pixels ({width} x {height}, at most {MAX_PIXELS})"
        raise PictureError(name, "bomb", reason, "scale it down first")
    return image


def _damaged(name: str, content: bytes) -> PictureError:
    """What to raise for bytes that begin as a picture and cannot be opened as one."""
    is_short = content[:4] == b"RIFF" and len(content) < int.from_bytes(content[4:8], "little") + 8
    reason = "is cut off" if is_short else "is damaged or cut off (it begins as a picture and cannot be opened)"
    return PictureError(name, "truncated" if is_short else "unreadable", reason, "fetch it again or leave it out")


def _looks_like(content: bytes) -> str:
    head = content[:256].lstrip().lower()
    for start, kind in (
        (b"<!doctype html", "a web page"),
        (b"<html", "a web page"),
        (b"<svg", "SVG"),
        (b"<?xml", "XML"),
        (b"%pdf", "PDF"),
        (b"%!ps", "PostScript"),
        (b"pk\x03\x04", "a ZIP archive"),
        (b"{", "JSON"),
    ):
        if head.startswith(start):
            return f"it looks like {kind}"
    return f"it begins with {content[:8]!r}"


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says, 8 bits a channel, mode RGB or RGBA.

    16-bit values are divided by 257 and floats in 0 to 1 multiplied by 255; no picture is stretched to its own range,
    so that equal values stay equal across pictures.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image, dtype=np.int64)
        return Image.fromarray(np.clip(values / 257, 0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        scale = 255 if values.max() <= 1 else 1
        return Image.fromarray(np.clip(values * scale, 0, 255).round().astype(np.uint8)).convert("RGB")
    transparent = image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info
    return image.convert("RGBA" if transparent else "RGB")


def flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The picture in RGB, laid over a background color where it is transparent."""
    image = upright(image)
    if image.mode == "RGB":
        return image
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(canvas, image).convert("RGB")


def fit(image: Image.Image, size: int, preprocess: ImagePreprocess) -> Image.Image:
    """The picture scaled so that a square of `size` fits: shorter side (fit=crop) or both sides (fit=squash)."""
    if preprocess.fit == "crop":
        image = cut_strip(image)
    return resize(image, *fitted(*image.size, size, preprocess), preprocess)


def fitted(width: int, height: int, size: int, preprocess: ImagePreprocess) -> tuple[int, int]:
    """Width and height to which `fit` scales."""
    if preprocess.fit == "squash":
        return size, size
    return (size, int(size * height / width)) if width <= height else (int(size * width / height), size)


def resize(image: Image.Image, width: int, height: int, preprocess: ImagePreprocess) -> Image.Image:
    """The picture at another size, by the filter and in the way that `preprocess` says."""
    if preprocess.decoding == "exact" or image.mode != "RGB":  # Pillow weighs colors by their opacity
        return image.resize((width, height), RESAMPLING[preprocess.interpolation])
    return Image.fromarray(fast.resized(np.array(image), width, height, preprocess.interpolation))


def cut_strip(image: Image.Image) -> Image.Image:
    """The middle of a picture more than MAX_RATIO times as long as wide: all of it, scaled up, would fill memory."""
    longest = MAX_RATIO * min(image.size)
    return image if max(image.size) <= longest else center_crop(image, *(min(side, longest) for side in image.size))


def center_crop(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def read_pixels(reference: str | bytes | Path, root: Path | None, preprocess: ImagePreprocess) -> NDArray[np.uint8]:
    """uint8 RGB, (3, size, size), not normalized: equal to `to_array` of the opened picture, by the shortest way.

    Raises:
        DataError: as `open_image`.
    """
    name, content = describe(reference), read_bytes(reference, root)
    header = open_header(content, name)
    pixels = fast.reduced(content, header, preprocess.size) if preprocess.decoding == "fast" else None
    if pixels is None:
        return to_array(_decode(header, name), preprocess)
    height, width = pixels.shape[:2]
    if preprocess.fit == "crop" and max(height, width) > MAX_RATIO * min(height, width):
        return to_array(Image.fromarray(pixels), preprocess)
    pixels = fast.resized(pixels, *fitted(width, height, preprocess.size, preprocess), preprocess.interpolation)
    top, left = ((side - preprocess.size) // 2 for side in pixels.shape[:2])
    return _planes(pixels[top : top + preprocess.size, left : left + preprocess.size])


def to_array(image: Image.Image, preprocess: ImagePreprocess) -> NDArray[np.uint8]:
    """uint8 RGB, (3, size, size), not normalized."""
    scaled = fit(flatten(image, preprocess.background), preprocess.size, preprocess)
    return _planes(np.asarray(center_crop(scaled, preprocess.size, preprocess.size)))


def to_pixels(image: Image.Image, preprocess: ImagePreprocess) -> "Tensor":
    """uint8 RGB, (3, size, size), not normalized."""
    import torch

    return torch.from_numpy(to_array(image, preprocess))


def as_tensor(image: Image.Image) -> "Tensor":
    """(C, H, W) uint8 of a picture of C channels."""
    import torch

    return torch.from_numpy(_planes(np.asarray(image)))


def _planes(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(C, H, W), its own copy, of (H, W, C)."""
    # Copied by NumPy: torch would wait for its threads over a few thousand bytes, long on a busy machine.
    return np.array(pixels.transpose(2, 0, 1), order="C")


# ---------------------------------------------------------------------------------------------------------------------
# References


def read_bytes(reference: str | bytes | Path, root: Path | None = None) -> bytes:
    """The bytes of the picture's file, not looked at.

    Raises:
        DataError: there is no such file or archive member, it cannot be read, or it is larger than MAX_BYTES.
    """
    if isinstance(reference, bytes):
        return reference
    text = str(reference)
    if text.startswith("data:"):
        return _from_base64(text.partition(",")[2], "data URI")
    if is_base64(text):
        return _from_base64(text, "base64")
    if member := _MEMBER.fullmatch(text):
        return _read_member(resolve(member["tar"], root), member)
    path = resolve(text, root)
    try:
        _bound(path, path.stat().st_size)
        return path.read_bytes()
    except FileNotFoundError:
        raise _missing(path) from None
    except IsADirectoryError:
        raise PictureError(path, "missing", "is a folder, wanted a picture", "correct the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or error
        raise PictureError(path, "unreadable", f"cannot be read ({why})", "see to its permissions or path") from None


def _missing(path: Path) -> PictureError:
    remedy = "correct the path, or give the folder of the pictures"
    return PictureError(path, "missing", "there is no such file", remedy)


def _bound(name: object, size: int) -> None:
    if size > MAX_BYTES:
        raise PictureError(name, "bomb", f"has {size} bytes, at most {MAX_BYTES} are read", "scale it down first")


def resolve(path: str | Path, root: Path | None) -> Path:
    """The path, below `root` when it is relative; `\\` counts as a separator when nothing is found otherwise."""
    path = Path(path) if root is None else root / path
    if "\\" in path.name and not path.exists():
        return Path(str(path).replace("\\", "/"))
    return path


def describe(reference: str | bytes | Path) -> str:
    """What an error calls the picture: its path, or a word when the cell holds the picture itself."""
    if isinstance(reference, bytes):
        return "bytes"
    text = str(reference)
    if text.startswith("data:") or is_base64(text):
        return text[:20] + "..."
    return text


def is_base64(text: str) -> bool:
    """Whether the text is a picture in base64 rather than a path."""
    return (
        len(text) > 80 and text.startswith(_BASE64_STARTS) and re.fullmatch(r"[A-Za-z0-9+/\s]+=*\s*", text) is not None
    )


def is_picture(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a picture format."""
    return head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[4:12] == b"ftypavif"


def _from_base64(text: str, name: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        reason = f"is not whole base64 ({error})"
        raise PictureError(name, "truncated", reason, "the cell may have been cut off") from None


def _read_member(path: Path, member: re.Match[str]) -> bytes:
    if not path.exists():
        raise _missing(path)
    name = f"{path}#{member['name']}"
    if member["offset"]:
        offset, size = int(member["offset"]), int(member["size"])
    else:
        index = _tar_index(path, path.stat().st_mtime_ns)
        if member["name"] not in index:
            raise PictureError(name, "missing", "there is no such member in the archive", "correct the name")
        offset, size = index[member["name"]]
    _bound(name, size)
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if len(content) < size:
        raise PictureError(name, "truncated", "the archive is cut off", "fetch it again")
    return content


@lru_cache(maxsize=16)
def _tar_index(path: Path, mtime_ns: int) -> dict[str, tuple[int, int]]:
    try:
        with tarfile.open(path, "r:") as tar:
            return {member.name: (member.offset_data, member.size) for member in tar if member.isfile()}
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = f"is not a readable tar archive ({error})"
        raise PictureError(path, "unreadable", reason, "fetch it again") from None
