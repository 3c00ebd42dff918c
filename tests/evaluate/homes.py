"""A table of homes, some pictures among them, and a run that learned a little of it."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from polymodal.train.run import Run, fit

COLORS = {"red": (220, 40, 30), "green": (40, 180, 60), "blue": (30, 60, 200)}
TARGETS = ("price", "defect", "condition", "city", "rooms_with")


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Homes whose price goes by size and color; of some the picture, the text or a label is missing."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        color = list(COLORS)[draw.integers(3)]
        size, age = round(float(draw.uniform(30, 200)), 1), int(draw.integers(0, 80))
        damp = bool(draw.random() < 0.3 + 0.4 * (age > 50))
        price = 2000 * size + (60_000 if color == "blue" else 0) - 500 * age + draw.normal(0, 8000)
        text = f"a {color} home, {'damp' if damp else 'dry'}" if number % 2 else f"{'潮湿' if damp else '干燥'}的房子"
        labels = [name for name, there in (("bath", size > 60), ("garden", color == "green")) if there]
        found.append({
            "photo": f"{color}-{number % 4}.png" if number % 7 else "",
            "notes": text if number % 5 else "",
            "size": size,
            "age": age,
            "街区": ("东城", "西城", "south")[number % 3],
            "price": round(price),
            "defect": ("yes" if damp else "no") if number % 11 else "",
            "condition": "old" if age > 55 else "fair" if age > 25 else "new",
            "city": ("北京", "上海", "Oslo")[list(COLORS).index(color)],
            "rooms_with": "; ".join(labels) or "cellar",
        })  # fmt: skip
    return found


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    return path


def table(folder: Path, count: int = 240) -> Path:
    """homes.csv, its pictures beside it."""
    draw = np.random.default_rng(5)
    for color, value in COLORS.items():
        for number in range(4):
            noise = draw.normal(0, 25, (20, 20, 3)) + value
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{color}-{number}.png")
    return write(folder / "homes.csv", rows(count))


def recipe(file: Path, epochs: int = 3) -> dict[str, Any]:
    return {
        "model": {"kind": "multimodal", "input_dropout": 0.2},
        "data": {
            "table": str(file),
            "targets": {
                "price": {},
                "defect": {},
                "condition": {"task": "ordinal", "classes": ["new", "fair", "old"]},
                "city": {},
                "rooms_with": {"task": "multilabel"},
            },
            "inputs": {
                "photo": {"kind": "image", "columns": ["photo"], "size": 16},
                "notes": {"kind": "text", "columns": ["notes"], "max_length": 12},
                "record": {"kind": "record", "columns": ["size", "age", "街区"]},
            },
        },
        "trainer": {"epochs": epochs, "batch_size": 32, "lr": 3e-3, "accelerator": "cpu"},
    }


def run(folder: Path, count: int = 240, epochs: int = 3) -> Run:
    """A run in folder/run, trained on folder/homes.csv."""
    return fit(recipe(table(folder, count), epochs), out=folder / "run")
