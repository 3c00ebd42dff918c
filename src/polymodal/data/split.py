"""Divide the rows of a manifest into train, val and test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from polymodal.data.check_pictures import Pictures
from polymodal.data.faults import FaultList, Faults
from polymodal.data.look import near_pairs
from polymodal.data.manifest import Manifest
from polymodal.errors import ConfigError, DataError

NAMES = {2: ("train", "val"), 3: ("train", "val", "test")}


@dataclass(frozen=True)
class Split:
    names: tuple[str, ...]
    of_row: NDArray[np.int64]  # (rows,) the place of each row's split in `names`
    wanted: tuple[float, ...]  # shares of the rows, that add up to 1
    groups: int | None  # how many groups were kept together; None when rows were divided one by one

    def counts(self) -> dict[str, int]:
        found = np.bincount(self.of_row, minlength=len(self.names)).tolist()
        return dict(zip(self.names, found, strict=True))

    def column(self) -> pa.Array:
        """The split column: the name of each row's split."""
        return pa.DictionaryArray.from_arrays(pa.array(self.of_row), pa.array(self.names)).cast(pa.string())

    def to_dict(self) -> dict[str, Any]:
        counts, rows = self.counts(), len(self.of_row)
        return {
            "rows": rows,
            "groups": self.groups,
            "splits": {
                name: {"rows": counts[name], "share": round(counts[name] / rows, 4), "wanted": round(wanted, 4)}
                for name, wanted in zip(self.names, self.wanted, strict=True)
            },
        }


def split(
    manifest: Manifest,
    ratio: Sequence[float] = (8, 1, 1),
    *,
    stratify: str | None = None,
    group: str | None = None,
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
) -> Split:
    """Every row to train, val or test (or to train or val, with two numbers), the same for the same seed.

    Args:
        ratio: sizes of the parts relative to each other.
        stratify: a column of whose every value each split gets its share, to within a row.
        group: a column whose equal values stay in one split; the column of pictures, or "image", keeps rows together
            whose pictures are the same file, have the same bytes, or look the same.

    Raises:
        ConfigError: the ratio is not two or three numbers of which the first is above 0, or both columns are given.
        DataError: there is no such column, or fewer rows or groups than splits.
    """
    if len(ratio) not in NAMES or min(ratio) < 0 or ratio[0] <= 0 or not np.isfinite(ratio).all():
        raise ConfigError(f"ratio must be two or three numbers such as 8:1:1, got {':'.join(map(str, ratio))}")
    if stratify is not None and group is not None:
        raise ConfigError("stratify and group cannot both be held; give the one that matters more")
    names = NAMES[len(ratio)]
    shares = np.array(ratio, float) / sum(ratio)
    rng = np.random.default_rng(seed)
    groups = None
    if group is not None:
        codes = _groups(manifest, group, workers, progress)
        groups = int(codes.max()) + 1 if len(codes) else 0
    units = len(manifest) if groups is None else groups
    if units < np.count_nonzero(shares):
        what = "rows" if groups is None else f'groups in "{group}"'
        raise DataError(f"{manifest.source}: has {units} {what}, too few for {np.count_nonzero(shares)} splits")
    if groups is not None:
        of_row = _assign_groups(codes, shares, rng)
    else:
        strata = _codes(manifest, stratify) if stratify else np.zeros(len(manifest), np.int64)
        of_row = _assign_rows(strata, shares, rng)
    return Split(names, of_row, tuple(shares.tolist()), groups)


def _assign_rows(strata: NDArray[np.int64], shares: NDArray[np.float64], rng: Generator) -> NDArray[np.int64]:
    """Each stratum divided by the shares; rows that are left over go where the whole still lacks most.

    Every split's part of every stratum is within one row of its share, apart from the row that fills a split which
    would be empty otherwise.
    """
    order = np.lexsort((rng.random(len(strata)), strata))
    sizes = np.bincount(strata)
    ends = np.cumsum(sizes)
    given, seen = np.zeros(len(shares)), 0
    of_row = np.empty(len(strata), np.int64)
    for stratum in rng.permutation(len(sizes)).tolist():
        exact = shares * sizes[stratum]
        counts = np.floor(exact + 1e-9)
        seen += sizes[stratum]
        lacking = np.where(exact - counts > 1e-9, shares * seen - given - counts, -np.inf)
        counts[np.argsort(-lacking, kind="stable")[: round(sizes[stratum] - counts.sum())]] += 1
        given += counts
        rows = order[ends[stratum] - sizes[stratum] : ends[stratum]]
        of_row[rows] = np.repeat(np.arange(len(shares)), counts.astype(int))
    for empty in np.flatnonzero((given == 0) & (shares > 0)):
        largest = np.argmax(given)
        of_row[rng.choice(np.flatnonzero(of_row == largest))] = empty
        given[largest] -= 1
    return of_row


def _assign_groups(codes: NDArray[np.int64], shares: NDArray[np.float64], rng: Generator) -> NDArray[np.int64]:
    """Each group to the split that lacks the largest part of its share, among those into which it fits.

    Groups come at random, those that do not fit everywhere before the others, so that no split gets only small ones.
    """
    sizes = np.bincount(codes)
    wanted = shares * len(codes)
    large = sizes > wanted[shares > 0].min()
    order = np.lexsort((rng.random(len(sizes)), np.where(large, -sizes, 0)))
    filled = np.zeros(len(shares))
    of_group = np.empty(len(sizes), np.int64)
    for done, place in enumerate(order.tolist()):
        empty = (filled == 0) & (shares > 0)
        fits = (wanted - filled >= sizes[place]) & (shares > 0)
        if len(order) - done <= empty.sum():  # just enough groups are left to have something in every split
            chosen = np.argmax(np.where(empty, wanted, -1))
        elif fits.any():
            chosen = np.argmax(np.where(fits, (wanted - filled) / np.maximum(wanted, 1e-9), -1))
        else:
            chosen = np.argmax(np.where(shares > 0, wanted - filled, -np.inf))
        of_group[place] = chosen
        filled[chosen] += sizes[place]
    return of_group[codes]


def _codes(manifest: Manifest, column: str) -> NDArray[np.int64]:
    """A number for each row, equal for equal values; empty cells are one value."""
    values = manifest.column(column)
    if pa.types.is_nested(values.type):
        raise DataError(f'{manifest.source}: column "{column}" holds lists; give one with single values')
    encoded = values.combine_chunks().dictionary_encode()
    codes: NDArray[np.int64] = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
    return np.unique(codes.astype(np.int64), return_inverse=True)[1]


def _groups(manifest: Manifest, column: str, workers: int, progress: bool) -> NDArray[np.int64]:
    if manifest.image is not None and column in (manifest.image, "image"):
        return _same_pictures(manifest, workers, progress)
    codes = _codes(manifest, column)
    # A row with an empty cell belongs to no group: it is one by itself.
    empty = np.array([value is None or value == "" for value in manifest.column(column).to_pylist()])
    codes[empty] = codes.max() + 1 + np.arange(empty.sum())
    return np.unique(codes, return_inverse=True)[1]


def _same_pictures(manifest: Manifest, workers: int, progress: bool) -> NDArray[np.int64]:
    """Groups of rows whose pictures are the same file, have the same bytes, or look the same, also by way of others."""
    pictures = Pictures(manifest, FaultList(Faults.of([])), workers, progress)
    usable = np.flatnonzero(pictures.opened)
    pairs = [np.zeros((2, 0), np.int64)]
    near_pairs(
        pictures.perceptual[usable],
        pictures.colors[usable],
        lambda first, second: pairs.append(usable[np.stack([first, second])]),
    )
    _, first, same = np.unique(pictures.content[usable], return_index=True, return_inverse=True)
    first, second = np.concatenate([*pairs, np.stack([usable[first[same]], usable])], axis=1)
    count = len(pictures.opened)
    links = coo_array((np.ones(len(first), bool), (first, second)), (count, count))
    codes = np.append(connected_components(links, directed=False)[1], 0)[pictures.of_row]
    alone = pictures.of_row < 0  # no picture that can be compared
    codes[alone] = count + np.arange(alone.sum())
    return np.unique(codes, return_inverse=True)[1]
