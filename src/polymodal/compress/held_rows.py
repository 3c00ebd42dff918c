"""Rows of a table that none of several models was trained on: to choose weights by, and to measure on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from polymodal.data.manifest import Manifest
from polymodal.errors import DataError
from polymodal.evaluate.chosen import choose_rows

Source = str | Path


class HeldRows(NamedTuple):
    validation: Manifest
    measured: Manifest  # rows of split test; without any the same
    which: str  # what the measured rows are, as people say it
    warnings: list[str]


def rows_for(
    sources: Sequence[Source], table: Source, *, images: Source | None = None, split: str | None = None
) -> HeldRows:
    """Rows to fit weights on and rows to measure on, none of which a member's run was trained on.

    Raises:
        DataError: there is no row to fit weights on.
    """
    learned = {number for source in sources for number in _numbers(source, table, "train", images)}
    of_table = choose_rows(sources[0], table, split=split or "all", exclude={}, images=images)
    manifest, warnings = of_table.manifest, list(of_table.warnings)
    if split is None:
        validation = {number for source in sources for number in _numbers(source, table, "val", images)}
        if not validation and (learned or manifest.splits()):
            raise DataError(_no_rows(table, "no row is of split val"))
        warnings = [] if learned else warnings
        manifest = manifest.select(np.isin(manifest.row_numbers, list(validation))) if validation else manifest
    unseen = manifest.select(~np.isin(manifest.row_numbers, list(learned)))
    if not len(unseen):
        raise DataError(_no_rows(table, f"a member was trained on each of its {len(manifest)} validation rows"))
    test = {number for source in sources for number in _numbers(source, table, "test", images)}
    kept = np.array(sorted(test - learned - set(unseen.row_numbers.tolist())), np.int64)
    if len(kept):
        whole = choose_rows(sources[0], table, split="all", exclude={}, images=images).manifest
        return HeldRows(unseen, whole.select(np.isin(whole.row_numbers, kept)), "rows of split test", warnings)
    return HeldRows(unseen, unseen, "the validation rows", warnings)


def _no_rows(table: Source, reason: str) -> str:
    return (
        f"{table}: {reason}, so there is nothing to choose weights by; name another table or --split, or train the "
        "members on the same rows (`polymodal split` makes a column for it)"
    )


def _numbers(source: Source, table: Source, split: str, images: Source | None) -> set[int]:
    """Numbers of the rows of a split, as the source's run or the table tells it."""
    try:
        return set(choose_rows(source, table, split=split, exclude={}, images=images).manifest.row_numbers.tolist())
    except DataError:
        return set()
