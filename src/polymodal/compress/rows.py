"""Which rows of the user's table a compression learns from, and on which others it is measured."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from polymodal.data.manifest import Manifest
from polymodal.errors import DataError
from polymodal.evaluate.chosen import Chosen, choose_rows


class Divided(NamedTuple):
    train: Manifest  # to learn from and to calibrate by
    measured: Manifest
    which: str  # what the measured rows are, as people say it
    notes: tuple[str, ...]


def divide(
    artifact: Path,
    table: str | Path | Manifest,
    *,
    split: str | None,
    exclude: Mapping[str, Sequence[str]],
    images: str | Path | None,
    seed: int,
) -> Divided:
    """Rows to learn from and rows to measure on, none of them both where that can be.

    Measured are those of `split`, else those that the run kept apart, else those of split test or val, else a half
    drawn by the seed. Learned from are those of split train, else all others.

    Raises:
        ConfigError: a value to exclude is not in its column.
        DataError: the table cannot be read, there is no such split, or fewer than 2 rows are left to measure on.
    """

    def of(name: str) -> Chosen:
        return choose_rows(artifact, table, split=name, exclude=exclude, images=images)

    whole = of("all")
    measured = of(split) if split is not None else _first_of(of, "test", "val")
    notes: tuple[str, ...] = ()
    if measured is None:
        half = np.random.default_rng((seed, 5)).permutation(len(whole.manifest))[: len(whole.manifest) // 2]
        kept, which = whole.manifest.select(np.sort(half)), "a half of the rows, drawn by the seed"
        notes = ("the table has no column of splits: one half of its rows is measured, the other is learned from",)
        notes += tuple(whole.warnings)
    else:
        kept, which, notes = measured.manifest, measured.reason, tuple(measured.warnings)
    if len(kept) < 2:
        raise DataError(f"{whole.manifest.source}: wanted at least 2 rows to measure on, got {len(kept)} ({which})")
    learned = _first_of(of, "train") or whole
    train = learned.manifest.select(~np.isin(learned.manifest.row_numbers, kept.row_numbers))
    if not len(train):
        train = kept
        notes += ("no row is left to learn from but those that are measured: the numbers are somewhat too good",)
    return Divided(train, kept, which, notes)


def _first_of(of: Callable[[str], Chosen], *names: str) -> Chosen | None:
    """The first of these splits that there is."""
    for name in names:
        try:
            return of(name)
        except DataError:
            continue
    return None
