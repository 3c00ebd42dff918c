"""The work of a chain on small real artifacts."""

from pathlib import Path
from typing import Any

from polymodal import artifact
from polymodal.compress.quality import quality
from polymodal.compress.step import Work
from polymodal.data.manifest import Manifest
from tests.train import toy


def begun(folder: Path, table: Path, **changes: Any) -> Work:
    given, rows = artifact.load(folder), Manifest.read(table)
    settings: dict[str, Any] = {
        "artifact": given,
        "model": given.model,
        "tokenizer": given.tokenizer,
        "preprocess": given.preprocess,
        "train": rows,
        "measured": rows,
        "measure": quality,
        "say": lambda message: None,
    }
    return Work(**(settings | changes))


def pairs(folder: Path, count: int = 32) -> Path:
    """pairs.csv of drawn squares and what they show."""
    return toy.table(folder, count)
