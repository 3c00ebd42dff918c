"""A manifest: a table of pictures and texts of any kind of source, in Arrow's form on disk, memory-mapped."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from polymodal.data import columns as typing_
from polymodal.data.columns import Column
from polymodal.data.decode import PictureError
from polymodal.data.faults import Faults
from polymodal.data.ingest import Options, map_table, open_source, with_local_files
from polymodal.data.reading import ROW
from polymodal.errors import ConfigError, DataError, did_you_mean

SPLIT_SYNONYMS = (("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing"))


class Manifest:
    """Rows of a table, of which a column may be pictures and some may be texts.

    Rows are addressed by their place, from 0; `row_numbers` are their numbers in the source, from 1, as people count.
    A selection keeps places only and copies nothing.
    """

    def __init__(
        self,
        full: pa.Table,
        *,
        source: str,
        root: Path,
        columns: tuple[Column, ...],
        image: str | None,
        text: tuple[str, ...],
        split_column: str | None,
        faults: Faults,
        notes: tuple[str, ...],
        arrow_file: Path,
        places: NDArray[np.int64] | None = None,
    ) -> None:
        self._full = full
        self._places = places  # in `_full`; None stands for all of them
        self.source = source
        self.root = root  # relative paths of pictures are relative to it
        self.columns = columns
        self.image = image
        self.text = text
        self.split_column = split_column
        self.faults = faults  # rows of the source that could not be read; they are not in the table
        self.notes = notes  # what was understood in a way that one should know about
        self._arrow_file = arrow_file

    @classmethod
    def read(
        cls,
        source: str | Path,
        *,
        image: str | None = None,
        text: str | Sequence[str] | None = None,
        split_column: str | None = None,
        images: str | Path | None = None,
        encoding: str | None = None,
    ) -> Self:
        """The manifest of a CSV, TSV, JSON Lines, Parquet or JSON file, a folder, or WebDataset tars.

        Args:
            source: a path; tars may have a brace range, `pairs-{000..003}.tar`.
            image: the column of pictures, if not the one found by inspection.
            text: the column or columns of texts, if not the one found by inspection.
            split_column: the column that says train, val or test, if not the one found by inspection.
            images: folder of the pictures, when paths are relative to another folder than the table's, or for finding
                the files of a table of URLs.
            encoding: of a text file; without it UTF-8, UTF-16 and GBK are told apart.

        Raises:
            DataError: the source cannot be read as any of these, has no rows, or lacks a named column.
        """
        options = Options(images=Path(images) if images is not None else None, encoding=encoding)
        ingested = open_source(str(source), options)
        found = typing_.inspect(ingested.table, ingested.root)
        url = typing_.url_column(found)
        if image is None and url is not None:
            ingested = with_local_files(ingested, url)
            found = typing_.inspect(ingested.table, ingested.root)
        image, found = typing_.choose_image(found, image)
        texts, found = typing_.choose_text(found, [text] if isinstance(text, str) else text)
        split_column, found = typing_.choose_split(found, split_column)
        return cls(
            ingested.table,
            source=str(source),
            root=ingested.root,
            columns=found,
            image=image,
            text=texts,
            split_column=split_column,
            faults=ingested.faults,
            notes=tuple(ingested.notes),
            arrow_file=ingested.arrow_file,
        )

    def __len__(self) -> int:
        return int(self._full.num_rows) if self._places is None else len(self._places)

    def __repr__(self) -> str:
        return f"Manifest({self.source!r}, {len(self)} rows, image={self.image!r}, text={self.text!r})"

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the same file instead of getting a copy of the table.
        return {name: value for name, value in vars(self).items() if name not in ("_full", "table", "row_numbers")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._full = map_table(self._arrow_file)

    @property
    def stamp(self) -> str:
        """Names the source in its present state; it changes when the source does."""
        return self._arrow_file.stem

    @cached_property
    def table(self) -> pa.Table:
        """The rows as an Arrow table, in memory only if they are a selection."""
        table = self._full.drop_columns([ROW])
        return table if self._places is None else take_rows(table, self._places)

    @cached_property
    def row_numbers(self) -> NDArray[np.int64]:
        """The number of each row in its source, from 1."""
        numbers: NDArray[np.int64] = self.column(ROW).to_numpy()
        return numbers

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the rows; of a selection, a copy of that column only.

        Raises:
            DataError: there is no such column.
        """
        if name not in self._full.column_names:
            known = [column.name for column in self.columns]
            raise DataError(
                f'{self.source}: no column is named "{name}"{did_you_mean(name, known)}; there are: {", ".join(known)}'
            )
        if self._places is None:
            return self._full.column(name)
        return take_rows(self._full.select([name]), self._places).column(name)

    def kinds(self) -> dict[str, pa.DataType]:
        """Arrow's type of every column."""
        return {field.name: field.type for field in self._full.schema if field.name != ROW}

    def cell(self, row: int, name: str) -> Any:
        """The value of one cell as a Python object."""
        return self._full.column(name)[self._place(row)].as_py()

    def _place(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return row if self._places is None else int(self._places[row])

    # -----------------------------------------------------------------------------------------------------------------
    # Selections

    def select(self, rows: ArrayLike | str) -> Self:
        """The rows at these places, in this order, or where a boolean mask is true; a str is the name of a split."""
        if isinstance(rows, str):
            return self.split(rows)
        chosen = np.asarray(rows)
        if chosen.dtype == bool:
            if len(chosen) != len(self):
                raise DataError(f"{self.source}: a mask of {len(chosen)} for {len(self)} rows")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise DataError(
                f"{self.source}: places must be in 0 to {len(self) - 1}, got {chosen.min()} to {chosen.max()}"
            )
        selection = type(self).__new__(type(self))
        vars(selection).update(self.__getstate__())
        selection._full = self._full
        selection._places = chosen if self._places is None else self._places[chosen]
        return selection

    def splits(self) -> dict[str, int]:
        """Number of rows of every split; empty when no column says one."""
        if self.split_column is None:
            return {}
        counts = self.column(self.split_column).value_counts().to_pylist()
        return {str(entry["values"]): entry["counts"] for entry in counts if entry["values"] not in (None, "")}

    def split(self, name: str) -> Self:
        """The rows of one split; "val", "valid", "validation" and "dev" are the same, so are "train" and "training".

        Raises:
            DataError: there is no such split; the message lists those that there are.
        """
        if self.split_column is None:
            raise DataError(
                f'{self.source}: no column says what is in split "{name}"; make one by `polymodal split`, or name '
                "it by split_column"
            )
        there = self.splits()
        same = next((group for group in SPLIT_SYNONYMS if name in group), (name,))
        found = next((candidate for candidate in (name, *same) if candidate in there), None)
        if found is None:
            listed = ", ".join(f"{split} ({count} rows)" for split, count in there.items())
            raise DataError(
                f'{self.source}: no split is named "{name}"{did_you_mean(name, there)}; there are: {listed}'
            )
        return self.select(
            pc.equal(self.column(self.split_column).cast(pa.string()), found).fill_null(False).to_numpy()
        )

    def holds(self, exclude: Mapping[str, Sequence[str]]) -> NDArray[np.bool_]:
        """(rows,) True where a column of `exclude` holds one of its values.

        Raises:
            ConfigError: a value is in no row.
            DataError: there is no such column.
        """
        found = np.zeros(len(self), bool)
        for name, unwanted in exclude.items():
            column = self.column(name).cast(pa.string())
            there = set(column.unique().to_pylist())
            for value in unwanted:
                if value not in there:
                    near = did_you_mean(value, filter(None, there))
                    raise ConfigError(f'exclude {name}="{value}": no row has it{near}')
            found |= pc.is_in(column, pa.array(unwanted, pa.string())).to_numpy()
        return found

    # -----------------------------------------------------------------------------------------------------------------
    # Cells

    def captions(self, row: int) -> list[str]:
        """The texts of a row over all text columns: lists laid flat, empty ones dropped, ends stripped."""
        return [caption for text in self.all_captions(row) if text is not None and (caption := text.strip())]

    def all_captions(self, row: int) -> list[str | None]:
        """The texts of a row as they stand, the empty ones too."""
        found: list[str | None] = []
        for name in self.text:
            value = self.cell(row, name)
            for text in value if isinstance(value, list) else [value]:
                found.append(text if text is None or isinstance(text, str) else str(text))
        return found

    def image_reference(self, row: int) -> str | bytes:
        """What the picture's cell holds: a path, bytes, base64, a data URI or `shard.tar#member`.

        Raises:
            DataError: there is no picture column.
            PictureError: the cell is empty or holds several pictures.
        """
        if self.image is None:
            raise DataError(f"{self.source}: no column holds pictures; name it by image (there are: {self._names()})")
        value = self.cell(row, self.image)
        if isinstance(value, dict):  # Hugging Face datasets write {"bytes": ..., "path": ...}
            value = value.get("bytes") or value.get("path")
        if isinstance(value, list):
            if len(value) > 1:
                raise PictureError(
                    self.where(row, self.image),
                    "no-picture",
                    f"has {len(value)} pictures, wanted one",
                    "write one a row",
                )
            value = value[0] if value else None
        if isinstance(value, str):
            value = value.strip()
        if not value:
            remedy = "fill the cell or leave the row out"
            raise PictureError(self.where(row, self.image), "no-picture", "names no picture", remedy)
        return value if isinstance(value, str | bytes) else str(value)

    def image_key(self, row: int) -> str:
        """Equal for rows whose cells show the same file (or the same bytes); for grouping captions of one picture."""
        reference = self.image_reference(row)
        if isinstance(reference, str) and len(reference) < 1000:
            return os.path.normpath(reference) if "#" not in reference else reference
        content = reference if isinstance(reference, bytes) else reference.encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def where(self, row: int, column: str) -> str:
        """How errors call a cell: `pairs.csv: row 17, image`."""
        return f"{self.source}: row {self.row_number(row)}, {column}"

    def row_number(self, row: int) -> int:
        """The number of one row in its source, from 1."""
        return int(self.cell(row, ROW))

    def _names(self) -> str:
        return ", ".join(f"{column.name} ({column.modality})" for column in self.columns)

    def batches(self, names: Sequence[str], size: int = 4096) -> Iterator[pa.Table]:
        """The named columns, some rows at a time, so that memory stays flat."""
        table = self._full.select(names)
        for start in range(0, len(self), size):
            if self._places is None:
                yield table.slice(start, size)
            else:
                yield take_rows(table, self._places[start : start + size])


def take_rows(table: pa.Table, places: NDArray[np.int64]) -> pa.Table:
    """The rows at these places. `Table.take` would first copy whole columns of many chunks into one piece."""
    if len(places) == 0:
        return table.slice(0, 0)
    low = int(places.min())
    batches = table.slice(low, int(places.max()) - low + 1).to_batches()
    ends = low + np.cumsum([batch.num_rows for batch in batches])
    chunk = np.searchsorted(ends, places, side="right")
    order = np.argsort(chunk, kind="stable")
    parts = []
    for inside in np.split(order, np.flatnonzero(np.diff(chunk[order])) + 1):
        batch, end = batches[chunk[inside[0]]], ends[chunk[inside[0]]]
        parts.append(batch.take(pa.array(places[inside] - (end - batch.num_rows))))
    taken = pa.Table.from_batches(parts)
    in_order = bool((np.diff(chunk) >= 0).all())
    return taken if in_order else taken.take(pa.array(np.argsort(order)))
