"""Small real files to read."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def noise(seed: int, width: int = 24, height: int = 16) -> Image.Image:
    """A smooth random picture: no two seeds look alike, also to a perceptual hash."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


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
