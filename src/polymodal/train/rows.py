"""Which rows of a table train, which validate, and which cannot be used."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polymodal.data.cache import cache_folder, digest, written_beside
from polymodal.data.check import check
from polymodal.data.faults import Fault
from polymodal.data.manifest import Manifest
from polymodal.errors import DataError
from polymodal.train.recipe import TableConfig

Places = NDArray[np.int64]


class Division(NamedTuple):
    train: Places  # places of rows in the manifest, rising
    val: Places
    reason: str  # how it was divided, for the plan


def divide(manifest: Manifest, pictures: Places, config: TableConfig, seed: int) -> Division:
    """Rows to train on and rows to validate on; no picture is on both sides when this divides.

    Args:
        pictures: (rows,), equal numbers for equal pictures.

    Raises:
        DataError: the split column has no training rows, or the group column does not exist.
    """
    if manifest.split_column is not None and manifest.splits():
        values = np.asarray(manifest.column(manifest.split_column).cast(pa.string()).to_pylist(), dtype=object)
        train, val = (np.flatnonzero(np.isin(values, names)) for names in (config.train, config.val))
        if not len(train):
            there = ", ".join(f"{name} ({count} rows)" for name, count in manifest.splits().items())
            raise DataError(
                f'{manifest.source}: column "{manifest.split_column}" has no row of {", ".join(config.train)}; '
                f"there are: {there}; set data.train, or data.split to another column"
            )
        if len(val) or config.val_fraction == 0:
            return Division(train, _at_most(val, pictures, config.val_limit, seed), f'column "{manifest.split_column}"')
    else:
        train = np.arange(len(manifest))
    groups = pictures if config.group is None else numbered(manifest.column(config.group))
    held = _held_out(groups[train], config, seed)
    kind = config.group or ("picture" if manifest.image is not None else "row")
    reason = f"{config.val_fraction:.0%} held out by {kind}" if config.val_fraction else "no validation"
    return Division(train[~held], train[held], reason)


def _held_out(groups: Places, config: TableConfig, seed: int) -> NDArray[np.bool_]:
    names = np.unique(groups)
    count = min(config.val_limit, round(config.val_fraction * len(names)))
    if config.val_fraction and len(names) > 1:
        count = max(1, count)
    return np.isin(groups, np.random.default_rng([seed, 1]).permutation(names)[:count])


def _at_most(places: Places, pictures: Places, limit: int, seed: int) -> Places:
    names = np.unique(pictures[places])
    if len(names) <= limit:
        return places
    chosen = np.random.default_rng([seed, 1]).permutation(names)[:limit]
    return places[np.isin(pictures[places], chosen)]


def picture_numbers(manifest: Manifest) -> Places:
    """(rows,) 0, 1, ... in order of first appearance, equal for rows that show the same file; below 0 without one."""
    assert manifest.image is not None
    column = manifest.column(manifest.image)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return numbered(column)
    known: dict[str, int] = {}
    numbers = _alone(len(manifest))
    for row in range(len(manifest)):
        try:
            numbers[row] = known.setdefault(manifest.image_key(row), len(known))
        except DataError:
            continue  # the row is found faulty when its picture is opened
    return numbers


def numbered(column: pa.ChunkedArray) -> Places:
    """Equal numbers for equal values; a row without one belongs to no other."""
    encoded = column.combine_chunks().dictionary_encode()
    numbers = np.asarray(encoded.indices.fill_null(-1), dtype=np.int64)
    empty = np.asarray([value in ("", None) for value in encoded.dictionary.to_pylist()], bool)
    return np.where((numbers < 0) | np.append(empty, True)[numbers], _alone(len(numbers)), numbers)


def _alone(rows: int) -> Places:
    """(rows,) numbers below 0, each another."""
    return np.arange(-1, -1 - rows, -1)


def usable(manifest: Manifest, say: Callable[[str], None]) -> tuple[Manifest, list[Fault]]:
    """The rows that can be trained on, and the faults of the others.

    A table is checked whole once; what was found is remembered in the cache folder, and only rows with faults are
    looked at again, since their pictures may have been mended. One that has gone bad since names itself in training.
    """
    found = _remembered(manifest)
    if found is None:
        say(f"checking {len(manifest):,} rows of {manifest.source} (once; `polymodal check` shows all that it finds)")
        found = _errors(manifest)
    elif found:
        bad = np.isin(manifest.row_numbers, [fault.row for fault in found])
        mended = {fault.row for fault in found} - {fault.row for fault in _errors(manifest.select(bad))}
        # A leak into another split is seen among all rows only, so it stays until the table changes.
        found = [fault for fault in found if fault.row not in mended or fault.kind == "leak"]
    with written_beside(_memory(manifest)) as fresh:
        fresh.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")
    good = ~np.isin(manifest.row_numbers, [fault.row for fault in found])
    return manifest.select(good), found


def _errors(manifest: Manifest) -> list[Fault]:
    return [fault for fault in check(manifest).faults if fault.severity == "error"]


def _memory(manifest: Manifest) -> Path:
    columns = (manifest.image, manifest.text, manifest.split_column)
    return cache_folder() / "checked" / f"{digest(manifest.stamp, len(manifest), columns)}.json"


def _remembered(manifest: Manifest) -> list[Fault] | None:
    file = _memory(manifest)
    return [Fault(*fault) for fault in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else None


def write_left_out(file: Path, faults: Sequence[Fault]) -> None:
    """The rows that are not used, as a table."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(Fault._fields)
        writer.writerows(sorted(faults))
