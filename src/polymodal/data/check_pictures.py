"""The pictures of a manifest, each different one opened once."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.data.check_captions import spread
from polymodal.data.decode import PictureError
from polymodal.data.faults import FaultList
from polymodal.data.look import Look, look, wrong_ending
from polymodal.data.manifest import Manifest
from polymodal.data.progress import map_in_threads, with_progress


class Pictures:
    """Opens every picture, reports the faulty ones, and keeps about 90 bytes of each.

    Pictures are numbered in the order in which rows name them first.

    Attributes:
        of_row: (rows,) the number of each row's picture, -1 where it has none that can be used.
        first_row: (pictures,) the first row of each picture.
        content: (pictures,) hash of the file's bytes.
        perceptual: (pictures,) perceptual hash.
        colors: (pictures, 4, 4, 3).
        opened: (pictures,) whether it can be used.
    """

    def __init__(self, manifest: Manifest, faults: FaultList, workers: int, progress: bool) -> None:
        self._manifest = manifest
        self._column = manifest.image or ""
        self.of_row, self.first_row = _number_pictures(manifest, faults)
        count = len(self.first_row)
        self.content, self.perceptual = np.zeros((2, count), np.uint64)
        self.colors = np.zeros((count, 4, 4, 3), np.uint8)
        self.opened = np.zeros(count, bool)
        self._sizes = np.zeros((count, 3), np.int64)  # width, height, bytes
        self._formats: Counter[str] = Counter()
        rows_of = RowsOf(self.of_row)
        looks = map_in_threads(self._look, self.first_row.tolist(), workers)
        for picture, seen in enumerate(with_progress(looks, "opening pictures", count, progress)):
            if isinstance(seen, PictureError):
                for row in rows_of[picture]:
                    number = manifest.row_number(int(row))
                    faults.add(number, self._column, seen.kind, seen.reason, seen.remedy)
            else:
                self._keep(picture, seen, faults)
        self.of_row[~self.opened[self.of_row]] = -1

    def _look(self, row: int) -> Look | PictureError:
        try:
            return look(self._manifest.image_reference(row), self._manifest.root)
        except PictureError as error:
            return error

    def _keep(self, picture: int, seen: Look, faults: FaultList) -> None:
        self.content[picture], self.perceptual[picture] = seen.content, seen.perceptual
        self.colors[picture], self.opened[picture] = seen.colors, True
        self._sizes[picture] = seen.width, seen.height, seen.size
        self._formats[seen.format] += 1
        row = int(self.first_row[picture])
        if ending := wrong_ending(self._manifest.image_reference(row), seen.format):
            reason = f'it says "{ending}" and is {seen.format}'
            number = self._manifest.row_number(row)
            faults.add(number, self._column, "wrong-ending", reason, "rename it; it can be read as it is", "warning")

    def statistics(self) -> dict[str, Any]:
        width, height, size = self._sizes[self.opened].T
        return {
            "pictures": len(self.first_row),
            "usable": int(self.opened.sum()),
            "formats": dict(self._formats.most_common()),
            "width": spread(width),
            "height": spread(height),
            "bytes": spread(size),
        }


class RowsOf:
    """The rows of each number in an array of numbers, without a search for each."""

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        self._order = np.argsort(numbers, kind="stable")
        self._sorted = numbers[self._order]

    def __getitem__(self, number: int) -> NDArray[np.int64]:
        low, high = np.searchsorted(self._sorted, (number, number + 1))
        return self._order[low:high]


def _number_pictures(manifest: Manifest, faults: FaultList) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of every row its picture's number, -1 where the cell names none; and of every picture its first row."""
    has = np.zeros(len(manifest), bool)
    keys = np.fromiter(_keys(manifest, faults, has), np.uint64, len(manifest))
    rows = np.flatnonzero(has)
    _, first, inverse = np.unique(keys[rows], return_index=True, return_inverse=True)
    order = np.argsort(first)
    of_row = np.full(len(manifest), -1, np.int64)
    of_row[rows] = np.argsort(order)[inverse]
    return of_row, rows[first[order]]


def _keys(manifest: Manifest, faults: FaultList, has: NDArray[np.bool_]) -> Iterator[int]:
    for row in range(len(manifest)):
        try:
            key = manifest.image_key(row)
        except PictureError as error:
            faults.add(manifest.row_number(row), manifest.image or "", error.kind, error.reason, error.remedy)
            yield 0
            continue
        has[row] = True
        yield int.from_bytes(hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
