"""The pictures or texts of a table as vectors on disk, whatever the table's length.

Shapes: E entries (pictures, or captions: a row may have several); D width of the vectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from polymodal.data.faults import Fault, Faults
from polymodal.data.manifest import Manifest
from polymodal.engine.engine import BATCH_SIZE, Engine, Vectors
from polymodal.engine.progress import progress_bar
from polymodal.errors import DataError

Want = Literal["images", "texts"]
CHUNK = 2048  # entries that are in memory at a time


class Entry(NamedTuple):
    place: int  # of the row in the manifest, from 0
    caption: int  # place among the captions of the row, from 0; always 0 for pictures
    item: str | bytes  # the picture's reference, or the text


@dataclass(frozen=True)
class TableVectors:
    vectors: Vectors  # (E, D), unit length, memory-mapped
    places: NDArray[np.int64]  # (E,), of the row in the manifest, from 0
    captions: NDArray[np.int64]  # (E,), place among the captions of the row
    faults: Faults  # what has no vector: the manifest's own faults first


def embed_table(
    engine: Engine,
    manifest: Manifest,
    want: Want,
    file: Path,
    *,
    unique: bool = False,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> TableVectors:
    """Vectors of every picture or text of the table, written to `file` (.npy) as they come.

    Args:
        unique: a picture or text that stands in several rows is taken once, with its first row.

    Raises:
        DataError: the table has no column of the kind that is wanted, or not one good entry.
    """
    column = _column(manifest, want)
    found = _entries(manifest, want, unique)
    faults, places, captions = list(manifest.faults), [], []
    with (
        VectorFile(file, engine.width) as vectors,
        progress_bar(f"embedding {want}", len(manifest), shown=progress) as advance,
    ):
        passed = 0
        while chunk := list(islice(found, CHUNK)):
            good = [entry for entry in chunk if isinstance(entry, Entry)]
            faults += [entry for entry in chunk if isinstance(entry, Fault)]
            if want == "images":
                pictures = [entry.item for entry in good]
                done = engine.embed(images=pictures, root=manifest.root, batch_size=batch_size, on_error="report")
            else:
                done = engine.embed(texts=[str(entry.item) for entry in good], batch_size=batch_size, on_error="report")
            faults += [_fault(manifest, good[bad.place].place, column, bad.reason) for bad in done.faults]
            vectors.append(done.vectors)
            places += [good[row].place for row in done.rows]
            captions += [good[row].caption for row in done.rows]
            if good:
                advance(good[-1].place + 1 - passed)
                passed = good[-1].place + 1
    if not places:
        first = f", first: {faults[0]}" if faults else ""
        raise DataError(f"{manifest.source}: none of the {len(manifest)} rows has {want} that can be used{first}")
    return TableVectors(np.load(file, mmap_mode="r"), np.array(places), np.array(captions), Faults.of(faults))


class VectorFile:
    """A .npy of float32 vectors whose number is known only at the end."""

    def __init__(self, file: Path, width: int) -> None:
        self.count = 0
        self.width = width
        self._stream = file.open("wb")
        self._header()

    def _header(self) -> None:
        # numpy leaves room in the header for the first number of the shape to grow.
        shape = {"descr": "<f4", "fortran_order": False, "shape": (self.count, self.width)}
        self._stream.seek(0)
        np.lib.format.write_array_header_1_0(self._stream, shape)

    def append(self, vectors: Vectors) -> None:
        self.count += len(vectors)
        self._stream.write(np.ascontiguousarray(vectors, dtype="<f4").data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._header()
        self._stream.close()


def _column(manifest: Manifest, want: Want) -> str:
    """What faults call the column."""
    named = ", ".join(f"{column.name} ({column.modality})" for column in manifest.columns)
    if want == "images":
        if manifest.image is None:
            raise DataError(f"{manifest.source}: no column holds pictures, so there are none to find; it has: {named}")
        return manifest.image
    if not manifest.text:
        raise DataError(f"{manifest.source}: no column holds texts, so there are none to find; it has: {named}")
    return ", ".join(manifest.text)


def _entries(manifest: Manifest, want: Want, unique: bool) -> Iterator[Entry | Fault]:
    seen: set[str] = set()
    for place in range(len(manifest)):
        if want == "images":
            try:
                key = manifest.image_key(place) if unique else str(place)
                if key not in seen:
                    yield Entry(place, 0, manifest.image_reference(place))
            except DataError as error:
                yield _fault(manifest, place, str(manifest.image), str(error))
                continue
            if unique:
                seen.add(key)
        else:
            captions = manifest.captions(place)
            if not captions:
                yield _fault(
                    manifest, place, ", ".join(manifest.text), "has no text; fill the cell or leave the row out"
                )
            for number, caption in enumerate(captions):
                if caption not in seen:
                    yield Entry(place, number, caption)
                if unique:
                    seen.add(caption)


def _fault(manifest: Manifest, place: int, column: str, message: str) -> Fault:
    reason, _, remedy = message.removeprefix(f"{manifest.where(place, column)}: ").rpartition("; ")
    return Fault(
        int(manifest.row_numbers[place]), column, "unusable", reason or remedy, remedy if reason else "see reason"
    )
