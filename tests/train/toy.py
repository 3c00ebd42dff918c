"""A table of drawn pictures, and the smallest recipe for it."""

import csv
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLORS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "黄色": (230, 220, 30)}
SIDE = 16


def draw(file: Path, number: int) -> str:
    """A picture, and its caption; no two numbers below 100 have the same."""
    color = list(COLORS)[number % 4]
    x, y = number // 4 % 5 * 2, number // 20 % 5 * 2
    image = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    ImageDraw.Draw(image).rectangle((x, y, x + 6, y + 6), fill=COLORS[color])
    image.save(file)
    return f"a {color} square at {x} and {y}"


def table(folder: Path, count: int = 40, broken: tuple[int, ...] = ()) -> Path:
    """pairs.csv of `count` rows; the pictures of the `broken` numbers are cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "caption"])
        for number in range(count):
            file = folder / f"{number}.png"
            writer.writerow([file.name, draw(file, number)])
            if number in broken:
                file.write_bytes(file.read_bytes()[:40])
    return folder / "pairs.csv"


def recipe(table: Path, **trainer: Any) -> dict[str, Any]:
    """Two epochs of four steps of eight pairs, with dropout and an average of the weights."""
    tower = {"width": 16, "layers": 1, "heads": 2, "dropout": 0.1}
    settings = {"epochs": 2, "batch_size": 8, "lr": 3e-3, "ema": 0.9, "log_every": 1, "precision": "fp32"}
    return {
        "name": "toy",
        "data": {"table": str(table), "val_fraction": 0.2},
        "model": {
            "image": {"kind": "vit", "image_size": SIDE, "patch_size": 8, **tower},
            "text": {"kind": "text_transformer", "max_length": 16, **tower},
            "width": 8,
        },
        "tokenizer": {"kind": "learned", "vocab_size": 512},
        "trainer": settings | trainer,
    }
