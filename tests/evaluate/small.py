"""A small real table on disk and a small real engine."""

import csv
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from polymodal.engine import Engine
from tests import tiny

COLORS = {"red": (220, 40, 30), "green": (40, 180, 60), "blue": (30, 60, 200), "gray": (128, 128, 128)}
ZH = {"red": "红色", "green": "绿色", "blue": "蓝色", "gray": "灰色"}


@cache
def engine() -> Engine:
    return Engine(tiny.clip(), tiny.tokenizer(), tiny.preprocess(), name="tiny", device="cpu")


def table(folder: Path, count: int = 24, name: str = "pairs.csv") -> Path:
    """`count` pictures of noise on four colors, two captions each; of 16, 8 are train, 4 test and 4 val."""
    draw = np.random.default_rng(5)
    rows = []
    for n in range(count):
        color = list(COLORS)[n % 4]
        noise = draw.normal(0, 30, (20, 20, 3)) + COLORS[color]
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{n}.png")
        split = ("train", "test", "train", "val")[n // 4 % 4]
        for caption in (f"a {color} picture, number {n}", f"第{n}张{ZH[color]}的图片"):
            rows.append({"image": f"{n}.png", "caption": caption, "color": color, "颜色": ZH[color], "split": split})
    return write(folder / name, rows)


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
