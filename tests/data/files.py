"""Small real files to read."""

import io
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def noise(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    """A random picture with coarse and fine parts, as photos have; no two seeds are near duplicates."""
    rng = np.random.default_rng(seed)
    levels = np.zeros((height, width, 3))
    for scale in (2, 4, 8, 16):
        part = Image.fromarray(rng.integers(0, 256, (scale, scale, 3), dtype=np.uint8))
        levels += np.asarray(part.resize((width, height), Image.Resampling.BICUBIC), float) / scale
    return Image.fromarray((levels * 16 / 15).clip(0, 255).astype(np.uint8))


def picture_bytes(seed: int = 0, kind: str = "PNG", width: int = 24, height: int = 16, **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise(seed, width, height).save(buffer, kind, **options)
    return buffer.getvalue()


def write_picture(path: Path, seed: int = 0, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture_bytes(seed, kind))
    return path


def write_text(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def bomb() -> bytes:
    """A PNG of a few hundred bytes whose header promises 30,000 x 30,000 pixels."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    content[16:24] = (30_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)
