"""A table of drawn pictures, notes, numbers and categories with two targets, and the smallest recipe for it."""

import csv
from pathlib import Path
from typing import Any

from tests.train import toy

NOTES = ("damp cellar", "sunny and dry", "靠近公园", "")


def write(folder: Path, count: int = 48, **cells: dict[int, str]) -> Path:
    """rows.csv; `cells` are cells by column and row that are something else."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        names = ["id", "photo", "note", "area", "city", "price", "color", "split"]
        writer.writerow(names)
        for row in range(count):
            file = folder / f"{row}.png"
            toy.draw(file, row)
            area = 30.0 + 7 * (row % 11)
            values: list[Any] = [row, file.name, f"{NOTES[row % 4]} {row}", area, ("Wien", "Graz", "北京")[row % 3]]
            values += [round(3 * area + 10 * (row % 3), 1), list(toy.COLORS)[row % 4]]
            values += ["val" if row % 6 == 4 else "test" if row % 6 == 5 else "train"]
            for place, name in enumerate(names):
                values[place] = cells.get(name, {}).get(row, values[place])
            writer.writerow(values)
    return folder / "rows.csv"


def recipe(table: Path, *targets: str, **trainer: Any) -> dict[str, Any]:
    """Two epochs of four steps of eight rows, with dropout and an average of the weights."""
    settings = {"epochs": 2, "batch_size": 8, "ema": 0.9, "log_every": 1, "precision": "fp32"}
    small = {"width": 16, "layers": 1, "heads": 2}
    return {
        "name": "toy",
        "data": {
            "table": str(table),
            "targets": list(targets or ("price", "color")),
            "inputs": {
                "image": {"kind": "image", "columns": ["photo"], "size": 16},
                "text": {"kind": "text", "columns": ["note"], "max_length": 12},
                "record": {"kind": "record", "columns": ["area", "city"]},
            },
        },
        "model": {
            "kind": "multimodal",
            "encoders": {
                "image": {"kind": "vit", "image_size": 16, "patch_size": 8, "activation": "gelu", **small},
                "text": {"kind": "bert", "max_length": 12, "dropout": 0.1, **small},
                "record": {"kind": "record", "numbers": 1, "categories": [5], **small},
            },
            "fusion": {"kind": "early", "dropout": 0.1, "eps": 1e-5, **small},
            "input_dropout": 0.2,
        },
        "tokenizer": {"kind": "learned", "algorithm": "wordpiece", "vocab_size": 200},
        "trainer": settings | trainer,
    }
