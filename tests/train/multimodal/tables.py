"""Written tables whose answer one knows: what each input says of it is in the builder's first line."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def write(file: Path, **columns: Iterable[object]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return file


# The overrides that make an input of each of the two columns.
TWO_RECORDS = [f"data.inputs.{name}={{kind: record, columns: [{name}]}}" for name in ("left", "right")]


def xor(file: Path, rows: int = 400, seed: int = 0) -> Path:
    """Numbers `left` and `right` near -1 or 1, all four corners alike often; `y` is yes where their signs differ."""
    draw = np.random.default_rng(seed)
    corners = draw.permutation(np.arange(rows) % 4)
    left, right = 2.0 * (corners // 2) - 1, 2.0 * (corners % 2) - 1
    noise = draw.normal(0, 0.15, (2, rows)).clip(-0.5, 0.5)
    answer = np.where(left * right < 0, "yes", "no")
    return write(file, left=(left + noise[0]).round(3), right=(right + noise[1]).round(3), y=answer)


def redundant(file: Path, rows: int = 1000, seed: int = 0) -> Path:
    """`sign` alone gives `y` at a glance; so does `code` alone, but each of its 100 values is to be learned."""
    yes = np.random.default_rng(99).permutation(np.arange(100) % 2)  # what each code means, in every such table
    draw = np.random.default_rng(seed)
    code = draw.permutation(np.arange(rows) % 100)
    sign = 2.0 * yes[code] - 1 + draw.normal(0, 0.1, rows)
    answer = np.where(yes[code], "yes", "no")
    return write(file, sign=sign.round(3), code=[f"c{number}" for number in code], y=answer)


EASY_AND_HARD = [
    "data.inputs.easy={kind: record, columns: [sign]}",
    "data.inputs.hard={kind: record, columns: [code]}",
]
