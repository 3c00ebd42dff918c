"""What every reader of a source shares: a place for faults and notes, and rows of plain values -> Arrow batches."""

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from polymodal.data.faults import FAULT_SCHEMA, Fault, Faults

ROW = "__row__"  # int64, the number of the row in its source, from 1
BATCH_ROWS = 16_384

Row = tuple[int, dict[str, Any]]  # number, values


class Reading:
    """Collects what a reader has to say. Faults go to a file, so that a million of them do not fill memory."""

    def __init__(self, faults_file: Path) -> None:
        self.notes: list[str] = []  # what was understood in a way that one should know about
        self.kinds: dict[str, str] = {}  # of `batches_of_rows`; they outlive `start_again`
        self._file = faults_file
        self._open()

    def _open(self) -> None:
        self._writer = pa.ipc.new_file(self._file, FAULT_SCHEMA)
        self._waiting: list[Fault] = []

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def fault(self, row: int, column: str, kind: str, reason: str, remedy: str) -> None:
        self._waiting.append(Fault(row, column, kind, reason, remedy))
        if len(self._waiting) >= 4096:
            self._flush()

    def start_again(self) -> None:
        """Forget faults and notes, because the source will be read from its beginning."""
        self._writer.close()
        self.notes = []
        self._open()

    def close(self) -> None:
        """Write what is left; the notes are the metadata of a last, empty batch."""
        self._flush()
        empty = pa.RecordBatch.from_pylist([], schema=FAULT_SCHEMA)
        self._writer.write_batch(empty, custom_metadata={"notes": json.dumps(self.notes)})
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(Faults.of(self._waiting).table)
            self._waiting = []


class WiderError(Exception):
    """A row brought a column, or a kind of value, that the first rows did not have; `reading.kinds` now knows all."""


def batches_of_rows(rows: Iterable[Row], reading: Reading) -> Iterator[pa.RecordBatch]:
    """Batches with every key of any row as a column: bool, int64, double, string or list<string>.

    Kinds that do not agree become strings, a lone string among lists a list of one, other structures JSON. The kinds
    are those of the first rows.

    Raises:
        WiderError: a later row does not fit; the caller reads the source once more.
    """
    iterator = iter(rows)
    first = list(islice(iterator, BATCH_ROWS))
    _widen(reading.kinds, first)
    known = dict(reading.kinds)
    stream = chain(first, iterator)
    while batch := list(islice(stream, BATCH_ROWS)):
        _widen(reading.kinds, batch)
        if reading.kinds != known:
            _widen(reading.kinds, stream)
            raise WiderError
        yield _batch(batch, known)


def string_batch(columns: dict[str, Iterable[str]], numbers: list[int]) -> pa.RecordBatch:
    """A batch of string columns beside their rows' numbers."""
    arrays = [pa.array(numbers, pa.int64()), *(pa.array(values, pa.string()) for values in columns.values())]
    return pa.RecordBatch.from_arrays(arrays, names=[ROW, *columns])


_TYPES = {
    "null": pa.string(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
    "strings": pa.list_(pa.string()),
}


def _widen(kinds: dict[str, str], rows: Iterable[Row]) -> dict[str, str]:
    for _, values in rows:
        for name, value in values.items():
            kind, known = _kind(value), kinds.get(name, "null")
            if kind != known or name not in kinds:
                kinds[name] = _join(known, kind)
    return kinds


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            return "int" if -(2**63) <= value < 2**63 else "string"
        case float():
            return "float"
        case list() if all(isinstance(item, str) or item is None for item in value):
            return "strings"
        case _:
            return "string"


def _join(one: str, other: str) -> str:
    match {one, other} - {"null"}:
        case kinds if len(kinds) < 2:
            return (kinds or {"null"}).pop()
        case kinds if kinds == {"int", "float"}:
            return "float"
        case kinds if kinds == {"string", "strings"}:
            return "strings"
        case _:
            return "string"


def _batch(rows: list[Row], kinds: dict[str, str]) -> pa.RecordBatch:
    arrays = [pa.array([number for number, _ in rows], pa.int64())]
    for name, kind in kinds.items():
        values = [values.get(name) for _, values in rows]
        if kind in ("string", "null"):
            values = [value if value is None else _text(value) for value in values]
        elif kind == "strings":
            values = [
                [_text(value)] if value is not None and not isinstance(value, list) else value for value in values
            ]
        arrays.append(pa.array(values, _TYPES[kind]))
    return pa.RecordBatch.from_arrays(arrays, names=[ROW, *kinds])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
