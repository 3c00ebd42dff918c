"""What the cells of a column lead to, read when it is asked for: pictures, sounds, series, regions.

Each file is read once while what was read fits into memory. A cell that is empty gives None; one that cannot be read
gives None too, and a fault.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from polymodal.data.augment import Augment, canvas, decoded_side
from polymodal.data.dataset import Pictures
from polymodal.data.decode import open_image, upright
from polymodal.data.faults import CellError
from polymodal.data.manifest import Manifest
from polymodal.data.pixel_cache import CachedPictures, pictures_for
from polymodal.data.progress import map_in_threads, with_progress
from polymodal.data.source import Rows, Trouble
from polymodal.errors import DataError
from polymodal.preprocess import ImagePreprocess

MEMORY = 2**30  # bytes of a column that are kept
LONGEST_KEY = 2**16  # of what stands in the cell itself; a longer one would take as much memory as what it leads to
Value = TypeVar("Value")


def reference(cell: Any) -> Any:
    """What a cell leads to, without its wrapping: the bytes or path of Hugging Face datasets, a list of one."""
    if isinstance(cell, dict) and cell.keys() >= {"bytes", "path"}:
        cell = cell["bytes"] or cell["path"]
    if isinstance(cell, list) and len(cell) == 1 and isinstance(cell[0], str | bytes):
        cell = cell[0]
    if isinstance(cell, Path):
        return str(cell)
    if isinstance(cell, bytearray | memoryview):
        return bytes(cell)
    return cell.strip() if isinstance(cell, str) else cell


def is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | bytes | list | dict) and not value)


class Files(Generic[Value]):
    """Values of one column's cells."""

    def __init__(
        self, rows: Rows, column: str, read: Callable[[Any], Value], size: Callable[[Value], int], trouble: Trouble
    ) -> None:
        """
        Args:
            read: from a reference to the value; raises DataError. No lambda, for it goes to other processes.
            size: bytes of a value.
        """
        self.rows, self.column, self.trouble = rows, column, trouble
        self._read, self._size = read, size
        self._kept: OrderedDict[str | bytes, Value | DataError] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": OrderedDict(), "_bytes": 0}  # another process reads for itself

    def __call__(self, row: int) -> Value | None:
        given = reference(self.rows.cell(row, self.column))
        if is_empty(given):
            return None
        found = self.find(given)
        if isinstance(found, DataError):
            self.fault(row, found)
            return None
        return found

    def find(self, given: Any) -> Value | DataError:
        """The value of a reference, read or remembered; of a bad one what is wrong with it."""
        if isinstance(given, str | bytes) and given in self._kept:
            return self._kept[given]
        found = self.read(given)
        self._keep(given, found)
        return found

    def read(self, given: Any) -> Value | DataError:
        """As `find`, without remembering; other threads may do it too."""
        try:
            return self._read(given)
        except DataError as error:
            return error

    def _keep(self, given: Any, found: Value | DataError) -> None:
        if not isinstance(given, str | bytes) or len(given) >= LONGEST_KEY:
            return
        self._kept[given] = found
        self._bytes += 0 if isinstance(found, DataError) else self._size(found)
        while self._bytes > MEMORY and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= 0 if isinstance(dropped, DataError) else self._size(dropped)

    def fault(self, row: int, error: DataError) -> None:
        if isinstance(error, CellError):
            self.trouble.add(row, self.column, error.kind, error.reason, error.remedy)
        else:
            self.trouble.add(row, self.column, "unreadable", str(error), "correct the cell or leave the row out")

    def open_all(self, progress: bool) -> None:
        """Read every row's file once, so that all faults are known."""
        for row in with_progress(range(len(self.rows)), f"reading {self.column}", len(self.rows), progress):
            self(row)


class PictureFiles(Files[Image.Image]):
    """Pictures as `augment.canvas` leaves them; of a table out of the pixel cache when `open_all` found that faster."""

    def __init__(
        self, rows: Rows, column: str, preprocess: ImagePreprocess, augment: Augment | None, trouble: Trouble
    ) -> None:
        super().__init__(rows, column, self._decode, _picture_bytes, trouble)
        self._preprocess, self._augment = preprocess, augment
        self._cached: Pictures | None = None
        self._place = np.full(len(rows), -1)  # of each row in the cache

    def _decode(self, given: Any) -> Image.Image:
        augment = self._augment.image if self._augment else None
        side = decoded_side(self._preprocess, augment)
        image = given if isinstance(given, Image.Image) else open_image(given, self.rows.source.root, side)
        return canvas(upright(image), self._preprocess, augment)

    def __call__(self, row: int) -> Image.Image | None:
        if self._cached is not None and self._place[row] >= 0:
            return self._cached.picture(int(self._place[row]))
        return super().__call__(row)

    def read_ahead(self, rows: Sequence[int]) -> None:
        """Decode in threads what the rows' paths lead to and what is not at hand, and keep it until it is asked for."""
        cells = (reference(self.rows.cell(row, self.column)) for row in rows if self._place[row] < 0)
        paths = [cell for cell in dict.fromkeys(cell for cell in cells if isinstance(cell, str) and cell)
                 if cell not in self._kept and len(cell) < LONGEST_KEY]  # fmt: skip
        if len(paths) > 1:
            for path, picture in zip(paths, map_in_threads(self.read, paths, os.cpu_count() or 1), strict=True):
                self._keep(path, picture)

    def open_all(self, progress: bool, epochs: int = 1) -> None:
        filled = [row for row in range(len(self.rows)) if not is_empty(reference(self.rows.cell(row, self.column)))]
        if not filled or (epochs > 1 and self._use_cache(filled, epochs, progress)):
            return
        bad = self._open_each(filled, progress)
        if bad and epochs > 1:  # the cache takes sound pictures only
            self._use_cache([row for row in filled if row not in bad], epochs, progress)

    def _use_cache(self, rows: list[int], epochs: int, progress: bool) -> bool:
        if not isinstance(self.rows.source, Manifest) or not rows:
            return False
        shown = self.rows.source.select(rows)
        shown.image = self.column
        try:
            pictures = pictures_for(shown, self._preprocess, self._augment, epochs=epochs, progress=progress)
        except DataError:
            return False  # one of them cannot be read; `_open_each` says which
        if isinstance(pictures, CachedPictures):
            self._cached = pictures
            self._place[rows] = np.arange(len(rows))
        return self._cached is not None

    def _open_each(self, rows: list[int], progress: bool) -> set[int]:
        """Decode each different picture once, in threads, and note the faults; the rows that have one."""
        groups: dict[Any, list[int]] = {}
        for row in rows:
            given = reference(self.rows.cell(row, self.column))
            groups.setdefault(given if isinstance(given, str | bytes) else row, []).append(row)
        firsts = [group[0] for group in groups.values()]
        found = map_in_threads(self._read_row, firsts, os.cpu_count() or 1)
        bad = set()
        shown = with_progress(found, f"opening {self.column}", len(firsts), progress)
        for group, picture in zip(groups.values(), shown, strict=True):
            self._keep(reference(self.rows.cell(group[0], self.column)), picture)
            if isinstance(picture, DataError):
                bad.update(group)
                for row in group:
                    self.fault(row, picture)
        return bad

    def _read_row(self, row: int) -> Image.Image | DataError:
        return self.read(reference(self.rows.cell(row, self.column)))


def _picture_bytes(image: Image.Image) -> int:
    return image.width * image.height * len(image.getbands())


def array_bytes(array: NDArray[Any]) -> int:
    return array.nbytes
