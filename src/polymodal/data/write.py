"""A manifest back into a table file, with paths that are valid from where the new file lies."""

import base64
import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polymodal.data.cache import written_beside
from polymodal.data.decode import is_base64
from polymodal.data.manifest import Manifest
from polymodal.errors import DataError


def write(manifest: Manifest, out: Path, extra: Mapping[str, pa.Array] | None = None) -> Path:
    """Write the rows as CSV, TSV, JSON Lines or Parquet, by the ending of `out`; without one, as the source is.

    Args:
        extra: columns to add, or to put in the place of those with the same name; (rows,) each.

    Returns:
        The file that was written.

    Raises:
        DataError: the ending is not known, the format cannot hold a column, or the file would be the source itself.
    """
    out = resolve_out(manifest, out)
    with written_beside(out, "choose another place for the result") as part:
        _WRITERS[out.suffix.lower()](_tables(manifest, out, extra or {}), part)
    return out


def resolve_out(manifest: Manifest, out: Path) -> Path:
    """The file that `write` will write.

    Raises:
        DataError: as `write`.
    """
    kinds = manifest.kinds()
    nested = [name for name, kind in kinds.items() if not _is_flat(kind)]
    if not out.suffix:
        source = Path(manifest.source).suffix.lower()
        default = ".parquet" if nested else ".csv"
        out = out.with_name(out.name + (source if source in _WRITERS else default))
    if out.suffix.lower() not in _WRITERS:
        raise DataError(f'{out}: unknown ending "{out.suffix}"; wanted {", ".join(_WRITERS)}')
    if out.suffix.lower() in (".csv", ".tsv") and nested:
        raise DataError(
            f'{out}: column "{nested[0]}" is {kinds[nested[0]]}, which CSV cannot hold; write .parquet or .jsonl'
        )
    if out.absolute() == Path(manifest.source).absolute():
        raise DataError(f"{out}: is the table itself, which is never changed; write to another file")
    return out


def _is_flat(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_large_binary(kind))


def _tables(manifest: Manifest, out: Path, extra: Mapping[str, pa.Array]) -> Iterator[pa.Table]:
    pictures = [column.name for column in manifest.columns if column.modality == "image"]
    start = 0
    for table in manifest.batches([column.name for column in manifest.columns]):
        for name in pictures:
            values = table.column(name)
            moved = [_moved(value, manifest.root, out.absolute().parent) for value in values.to_pylist()]
            table = _put(table, name, pa.array(moved, values.type))
        for name, added in extra.items():
            table = _put(table, name, added.slice(start, table.num_rows))
        start += table.num_rows
        yield table


def _put(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    if name not in table.column_names:
        return table.append_column(name, values)
    return table.set_column(table.column_names.index(name), name, values)


def _moved(value: Any, root: Path, folder: Path) -> Any:
    """A picture's cell as it must be written into a table that lies in `folder`."""
    if isinstance(value, list):
        return [_moved(item, root, folder) for item in value]
    if not isinstance(value, str) or not value.strip() or os.path.isabs(value):
        return value
    if value.startswith(("data:", "http://", "https://")) or is_base64(value):
        return value
    try:
        return Path(os.path.relpath(root.absolute() / value.strip(), folder)).as_posix()
    except ValueError:  # on another drive
        return str(root.absolute() / value.strip())


# ---------------------------------------------------------------------------------------------------------------------
# Formats


def _delimited(delimiter: str) -> Callable[[Iterator[pa.Table], Path], None]:
    def write_rows(tables: Iterator[pa.Table], path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
            for place, table in enumerate(tables):
                if place == 0:
                    writer.writerow(table.column_names)
                columns = [map(_cell, column.to_pylist()) for column in table.columns]
                writer.writerows(zip(*columns, strict=True))

    return write_rows


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, bool) else value  # true, as it was read from JSON


def _json_lines(tables: Iterator[pa.Table], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for table in tables:
            for row in table.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False, default=_as_json) + "\n")


def _as_json(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _parquet(tables: Iterator[pa.Table], path: Path) -> None:
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table.cast(first.schema))


_WRITERS: dict[str, Callable[[Iterator[pa.Table], Path], None]] = {
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}
