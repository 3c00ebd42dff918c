"""A table of pictures and captions on disk, for the tests of search and export."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from polymodal.data.manifest import Manifest
from polymodal.engine import Engine
from tests import tiny

CAPTIONS = ["a dog on the beach", "两只猫", "a dog on the beach", "a bicycle", "a red sofa", "a man"]


def engine() -> Engine:
    return Engine(tiny.clip(), tiny.tokenizer(), tiny.preprocess(), name="tiny", device="cpu")


def write(folder: Path, rows: int = 6) -> Path:
    """pairs.jsonl: row 4 shows the picture of row 1 again; row 3 has the caption of row 1 and one more."""
    draw = np.random.default_rng(9)
    lines = []
    for row in range(rows):
        name = f"{0 if row == 3 else row}.png"
        if not (folder / name).exists():
            Image.fromarray(draw.integers(256, size=(24, 20, 3), dtype=np.uint8)).save(folder / name)
        captions = [CAPTIONS[row % 6]] + (["又一只狗"] if row == 2 else [])
        lines.append(json.dumps({"image": name, "caption": captions}, ensure_ascii=False))
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "pairs.jsonl"


def read(folder: Path, rows: int = 6) -> Manifest:
    return Manifest.read(write(folder, rows))
