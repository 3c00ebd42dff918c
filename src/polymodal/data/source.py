"""Where rows come from, and what was found wrong with them.

A table is a `Manifest`; what a program or a server has at hand is `PlainRows`. Both are read by the same code.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polymodal.data.faults import Fault, Severity
from polymodal.data.manifest import Manifest
from polymodal.errors import DataError


class PlainRows:
    """Rows that are dictionaries of Python values: texts, numbers, lists, paths, bytes, PIL pictures, arrays."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], root: Path = Path(), source: str = "rows") -> None:
        """
        Args:
            rows: a key that a row lacks is an empty cell.
            root: folder that relative paths are relative to.
            source: what errors call the rows.
        """
        self.rows = rows
        self.root = root
        self.source = source
        self.row_numbers = np.arange(1, len(rows) + 1)
        self._names = {name for row in rows for name in row}

    def __len__(self) -> int:
        return len(self.rows)

    def kinds(self) -> Mapping[str, Any]:
        return dict.fromkeys(self._names)

    def column(self, name: str) -> pa.ChunkedArray:
        values = [_plain(row.get(name)) for row in self.rows]
        try:
            array = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # kinds that do not agree: 3 beside "three"
            array = pa.array([None if value is None else _string(value) for value in values], pa.string())
        return pa.chunked_array([array])

    def cell(self, row: int, name: str) -> Any:
        return self.rows[row].get(name)


def _string(value: Any) -> str:
    """As a CSV would hold it: a list as JSON."""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return str(value) if isinstance(value, Path) else value


class Rows:
    """Columns by name; one that the source does not have is empty in every row."""

    def __init__(self, source: Manifest | PlainRows) -> None:
        self.source = source
        self.there = frozenset(source.kinds())

    def __len__(self) -> int:
        return len(self.source)

    def column(self, name: str) -> pa.ChunkedArray:
        return self.source.column(name) if name in self.there else pa.chunked_array([pa.nulls(len(self), pa.string())])

    def cell(self, row: int, name: str) -> Any:
        return self.source.cell(row, name) if name in self.there else None


class Trouble:
    """Faults of cells, each once; with `strict` the first one that is an error is raised."""

    def __init__(self, source: Manifest | PlainRows, strict: bool = False) -> None:
        self._source = source
        self._strict = strict
        self._faults: dict[tuple[int, str, str], Fault] = {}

    def add(self, place: int, column: str, kind: str, reason: str, remedy: str, severity: Severity = "error") -> None:
        """Note a fault of the cell of `column` in the row at `place`.

        Raises:
            DataError: when strict.
        """
        fault = Fault(int(self._source.row_numbers[place]), column, kind, reason, remedy, severity)
        if self._strict and severity == "error":
            raise DataError(f"{self._source.source}: {fault}")
        self._faults.setdefault((fault.row, column, kind), fault)

    def cells(self, wrong: NDArray[np.bool_], column: str, kind: str, values: pa.ChunkedArray, reason: str) -> None:
        """Note a warning for every row where `wrong` is true; the cell's value is shown before the reason."""
        for place in np.flatnonzero(wrong).tolist():
            value = str(values[place].as_py())[:60]
            self.add(place, column, kind, f'"{value}" {reason}', "correct the cell or leave it empty", "warning")

    def sorted(self) -> list[Fault]:
        """In the order of the rows."""
        return sorted(self._faults.values(), key=lambda fault: fault.row)
