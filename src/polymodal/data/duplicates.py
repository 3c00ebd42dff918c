"""The same picture twice: in another split (a leak), under another name, or with the same captions."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from polymodal.data.check_pictures import Pictures, RowsOf
from polymodal.data.faults import FaultList
from polymodal.data.look import near_pairs
from polymodal.data.manifest import Manifest

NONE = np.iinfo(np.int64).max


def report_duplicates(manifest: Manifest, pictures: Pictures, captions: NDArray[np.uint64], faults: FaultList) -> None:
    """Add leak, near-leak, duplicate, near-duplicate and repeated to the faults; `check` says what they mean.

    Args:
        captions: (rows,) a hash of each row's captions.
    """
    if not pictures.opened.any():
        return
    _Duplicates(manifest, pictures, faults).report(captions)


class _Duplicates:
    def __init__(self, manifest: Manifest, pictures: Pictures, faults: FaultList) -> None:
        self.manifest = manifest
        self.pictures = pictures
        self.faults = faults
        self.column = manifest.image or ""
        self.names, self.split = _splits(manifest)
        self.ranks = np.array([split_rank(name) for name in self.names])
        # Pictures with the same bytes are one group, numbered in the order of rows.
        usable = np.flatnonzero(pictures.opened)
        _, first, inverse = np.unique(pictures.content[usable], return_index=True, return_inverse=True)
        order = np.argsort(first)
        self.first_picture = usable[first[order]]  # of each group
        self.group = np.full(len(pictures.opened), -1, np.int64)
        self.group[usable] = np.argsort(order)[inverse]
        self.group_of_row = np.where(pictures.of_row >= 0, self.group[pictures.of_row], -1)

    def report(self, captions: NDArray[np.uint64]) -> None:
        self._leaks()
        self._same_bytes()
        self._near()
        self._repeated(captions)

    def _number(self, row: int) -> int:
        return self.manifest.row_number(int(row))

    def _leaks(self) -> None:
        rows = np.flatnonzero(self.group_of_row >= 0)
        pairs = np.unique(np.stack([self.group_of_row[rows], self.split[rows]]), axis=1)
        groups, counts = np.unique(pairs[0], return_counts=True)
        rows_of = RowsOf(self.group_of_row)
        for group in groups[counts > 1].tolist():
            for row, other in self._leaking(rows_of[group]):
                self._leak("leak", row, other, "shows the same picture", "error")

    def _leaking(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Of rows that show one picture those that should go, each with the row that stays."""
        ranks = self.ranks[self.split[rows]]
        stays = rows[np.argmax(ranks)]  # the first row of the split farthest from training
        for row in rows[self.split[rows] != self.split[stays]]:
            yield int(row), int(stays)

    def _leak(self, kind: str, row: int, other: int, what: str, severity: str) -> None:
        here, there = self.names[self.split[row]], self.names[self.split[other]]
        reason = f'it is in split "{here}", and row {self._number(other)} in split "{there}" {what}'
        held_out = split_rank(here) == split_rank(there) == 3  # two tests: nothing is learned from either
        remedy = "leave one of the two out, or split by `polymodal split --group image`"
        certain = severity == "error" and not held_out
        self.faults.add(self._number(row), self.column, kind, reason, remedy, "error" if certain else "warning")

    def _same_bytes(self) -> None:
        seen: dict[tuple[int, int], int] = {}
        counts = np.bincount(self.group[self.group >= 0])
        for picture in np.flatnonzero(self.group >= 0)[counts[self.group[self.group >= 0]] > 1].tolist():
            row = int(self.pictures.first_row[picture])
            first = seen.setdefault((int(self.group[picture]), int(self.split[row])), row)
            if first != row:
                reason = f"its file has the same bytes as that of row {self._number(first)}"
                self.faults.add(
                    self._number(row), self.column, "duplicate", reason, "leave one of the two out", "warning"
                )

    def _near(self) -> None:
        """Of every group the first that looks like it in the same split, and one in a split that must not see it."""
        rows = self.pictures.first_row[self.first_picture]
        split, rank = self.split[rows], self.ranks[self.split[rows]]
        like, leak = np.full((2, len(rows)), NONE)

        def found(first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
            same = split[first] == split[second]
            np.minimum.at(like, second[same], first[same])
            first, second = first[~same], second[~same]
            nearer = rank[first] <= rank[second]  # the one nearer to training is named
            np.minimum.at(leak, np.where(nearer, first, second), np.where(nearer, second, first))

        near_pairs(self.pictures.perceptual[self.first_picture], self.pictures.colors[self.first_picture], found)
        for group in np.flatnonzero(like != NONE).tolist():
            reason = f"it looks like row {self._number(rows[like[group]])}"
            remedy = "look at both; leave one out if they are the same"
            self.faults.add(self._number(rows[group]), self.column, "near-duplicate", reason, remedy, "warning")
        for group in np.flatnonzero(leak != NONE).tolist():
            self._leak("near-leak", int(rows[group]), int(rows[leak[group]]), "looks the same", "warning")

    def _repeated(self, captions: NDArray[np.uint64]) -> None:
        rows = np.flatnonzero(self.group_of_row >= 0)
        keys = (captions[rows], self.split[rows], self.group_of_row[rows])
        order = rows[np.lexsort((rows, *keys))]
        same = np.ones(max(0, len(order) - 1), bool)
        for values in (captions, self.split, self.group_of_row):
            same &= values[order[1:]] == values[order[:-1]]
        first = order[0] if len(order) else 0
        for place in range(1, len(order)):
            if not same[place - 1]:
                first = order[place]
                continue
            reason = f"it has the picture and the captions of row {self._number(first)}"
            self.faults.add(
                self._number(order[place]), self.column, "repeated", reason, "leave one of the two out", "warning"
            )


def _splits(manifest: Manifest) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the splits, and of each row the place of its split in them."""
    if manifest.split_column is None:
        return [""], np.zeros(len(manifest), np.int64)
    encoded = manifest.column(manifest.split_column).cast("string").fill_null("").combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def split_rank(name: str) -> int:
    """How far a split is from training: 0 train, 1 unknown, 2 validation, 3 test."""
    name = name.lower()
    for rank, starts in ((0, ("train", "restval")), (2, ("val", "dev")), (3, ("test", "holdout"))):
        if name.startswith(starts):
            return rank
    return 1
