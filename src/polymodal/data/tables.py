"""Readers of tables in files: CSV and TSV, JSON Lines, Parquet."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polymodal.data.decode import EXTENSIONS
from polymodal.data.encodings import find_encoding, first_broken
from polymodal.data.reading import BATCH_ROWS, ROW, Reading, Row, batches_of_rows, string_batch
from polymodal.errors import DataError

MAX_CELL = 2**27  # characters of one CSV cell; a picture in base64 may be long, a quote that never closes is longer


def read_delimited(path: Path, delimiter: str, encoding: str | None, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Batches of a CSV or TSV file; every column is a string, as written.

    A row with too few or too many cells, or with bytes that are no text, is a fault and left out.

    Raises:
        DataError: the file is empty, its encoding is not known, or a quote never closes.
    """
    chosen, broken = find_encoding(path, encoding, reading)
    quoting = csv.QUOTE_MINIMAL
    if delimiter == "\t" and not _quotes_close(path, chosen):
        quoting = csv.QUOTE_NONE
        reading.note('quotes do not pair up, so " is taken as an ordinary character, which is usual in TSV')
    with _cells(path, delimiter, chosen, quoting) as lines:
        first = next((cells for cells in lines if cells), None)
        if first is None:
            raise DataError(f"{path}: is empty, wanted a header and rows")
        header, is_data = _header(path, first, reading)
        waiting = [first] if is_data else []
        yield from _string_batches(_rows(path, waiting, lines, header, broken, reading), header)


def _string_batches(rows: Iterator[tuple[int, list[str]]], header: list[str]) -> Iterator[pa.RecordBatch]:
    while True:
        chunk = list(islice(rows, BATCH_ROWS))
        columns = zip(*(cells for _, cells in chunk), strict=True) if chunk else [()] * len(header)
        yield string_batch(dict(zip(header, columns, strict=True)), [number for number, _ in chunk])
        if len(chunk) < BATCH_ROWS:
            return


def _rows(
    path: Path, waiting: list[list[str]], lines: Any, header: list[str], broken: bool, reading: Reading
) -> Iterator[tuple[int, list[str]]]:
    number = 0
    for cells in waiting:
        number += 1
        yield number, cells
    while True:
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            if "unexpected end" in str(error) or "field limit" in str(error):
                raise DataError(f'{path}: row {number} opens a quote (") that never closes; close it there') from None
            reading.fault(number, "", "quotes", f"its quotes cannot be read ({error})", 'write " inside quotes as ""')
            continue
        if not cells:
            continue  # an empty line
        number += 1
        if len(cells) != len(header):
            reason = f"it has {len(cells)} cells, the header has {len(header)}"
            reading.fault(number, "", "ragged", reason, "quote cells that hold the separator, or add the missing ones")
        elif broken and (place := first_broken(cells)):
            index, byte = place
            reason = f"it has the byte 0x{byte:02x}, which is no text in this encoding"
            reading.fault(number, header[index], "encoding", reason, "save the file as UTF-8, or name its encoding")
        else:
            yield number, cells


def _header(path: Path, first: list[str], reading: Reading) -> tuple[list[str], bool]:
    """Names of the columns, and whether the first line is already data."""
    if any(_is_data(cell) for cell in first):
        names = _made_names(first)
        reading.note(f"the first line is data, not a header; the columns are called {', '.join(names)}")
        return names, True
    names = [cell.strip() or f"column_{place}" for place, cell in enumerate(first, 1)]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise DataError(f'{path}: the header names "{min(repeated)}" twice; rename one of the columns')
    if ROW in names:
        raise DataError(f'{path}: a column is named "{ROW}", which is kept for the numbers of rows; rename it')
    return names, False


def _is_data(cell: str) -> bool:
    return cell.startswith(("http://", "https://", "data:")) or Path(cell.strip()).suffix.lower() in EXTENSIONS


def _made_names(first: list[str]) -> list[str]:
    names = []
    for place, cell in enumerate(first, 1):
        kind = "url" if cell.startswith(("http://", "https://")) else "image" if _is_data(cell) else ""
        rest = "caption" if len(first) == 2 else f"column_{place}"
        names.append(rest if not kind or kind in names else kind)
    return names


@contextmanager
def _cells(path: Path, delimiter: str, encoding: str, quoting: Any) -> Iterator[Any]:
    before = csv.field_size_limit(MAX_CELL)
    try:
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
            yield csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
    finally:
        csv.field_size_limit(before)


def _quotes_close(path: Path, encoding: str) -> bool:
    with _cells(path, "\t", encoding, csv.QUOTE_MINIMAL) as lines:
        try:
            for _ in lines:
                pass
        except csv.Error:
            return False
    return True


def read_json_lines(path: Path, encoding: str | None, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Batches of a file with one JSON object a line."""
    yield from batches_of_rows(_objects(path, encoding, reading), reading)


def _objects(path: Path, encoding: str | None, reading: Reading) -> Iterator[Row]:
    chosen, broken = find_encoding(path, encoding, reading)
    number = 0
    with path.open(encoding=chosen, errors="surrogateescape") as file:
        for line in file:
            if not line.strip():
                continue
            number += 1
            if broken and (place := first_broken([line])):
                reason = f"it has the byte 0x{place[1]:02x}, which is no text in this encoding"
                reading.fault(number, "", "encoding", reason, "save the file as UTF-8, or name its encoding")
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                reading.fault(number, "", "json", f"it is not JSON ({error})", "write one object a line")
                continue
            if isinstance(value, dict):
                yield number, value
            else:
                reading.fault(number, "", "json", f"it is a {type(value).__name__}", "write one object a line")


def read_parquet(path: Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Batches of a Parquet file; dictionaries are written out and binary columns get 64-bit offsets.

    Raises:
        DataError: it is not a whole Parquet file.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: is not a whole Parquet file ({error}); fetch it again") from None
    with file:
        heavy = any(_is_heavy(field.type) for field in file.schema_arrow)
        number = 0
        empty = pa.RecordBatch.from_pylist([], schema=file.schema_arrow)
        # Batches are as many rows as are surely small: pictures in cells make rows of a megabyte.
        for batch in _or_empty(file.iter_batches(batch_size=64 if heavy else BATCH_ROWS), empty):
            rows = pa.array(range(number + 1, number + 1 + batch.num_rows), pa.int64())
            arrays = [column.cast(_plain(column.type)) for column in batch.columns]
            yield pa.RecordBatch.from_arrays([rows, *arrays], names=[ROW, *batch.schema.names])
            number += batch.num_rows


def _or_empty(batches: Iterator[pa.RecordBatch], empty: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    yield next(batches, empty)
    yield from batches


def _is_heavy(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_struct))


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_binary(kind):
        return pa.large_binary()
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return kind
