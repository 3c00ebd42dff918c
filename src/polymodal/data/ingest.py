"""Any source -> one Arrow file in the cache folder, streamed once, and mapped from there.

The file is named by the source's path, size, time of change and options; when one of these changes it is made anew.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa

from polymodal.data import folders, json_files, tables
from polymodal.data.cache import cache_folder, digest, written_beside
from polymodal.data.faults import Faults
from polymodal.data.reading import Reading, WiderError
from polymodal.data.urls import LocalFiles, add_local_files
from polymodal.errors import DataError

FORMAT = 1  # of the cached files; raise it when a reader changes what it gives


@dataclass(frozen=True)
class Options:
    images: Path | None = None  # folder of the pictures
    encoding: str | None = None  # of a text file


@dataclass(frozen=True)
class Ingested:
    table: pa.Table  # memory-mapped, with the column reading.ROW
    root: Path
    faults: Faults
    notes: list[str]
    arrow_file: Path


@dataclass(frozen=True)
class Source:
    """One way to read one source."""

    read: Callable[[Reading], Iterator[pa.RecordBatch]]
    root: Path  # relative paths of pictures are relative to it
    watched: list[Path]  # files and folders whose change makes the cached table stale


def open_source(source: str, options: Options) -> Ingested:
    """The source as a memory-mapped table, read and written first if that was not done before.

    Raises:
        DataError: there is no such source, it is of no known kind, it has no rows, or the cache cannot be written.
    """
    found = recognize(source, options)
    stamp = [(str(path), *_stamp(path)) for path in found.watched]
    identity = digest(FORMAT, os.path.abspath(source), str(options.images), options.encoding)
    arrow_file = cache_folder() / "tables" / f"{identity}-{digest(stamp)}.arrow"
    ingested = _cached(found, arrow_file)
    for stale in arrow_file.parent.glob(f"{identity}-*"):
        if not stale.name.startswith(arrow_file.stem) and stale.suffix != ".part":
            stale.unlink(missing_ok=True)  # of an earlier state of the source; whoever has it mapped keeps it
    if not len(ingested.table):
        first = f", first: {ingested.faults[0]}" if ingested.faults else ""
        raise DataError(f"{source}: has no row that can be read ({len(ingested.faults)} faults{first})")
    return ingested


def with_local_files(ingested: Ingested, url: str) -> Ingested:
    """The table with a column `image`: the file, found below the root, that has the name with which the URL ends.

    Rows without such a file become faults. When no file at all is found the table is given back as it is.
    """
    folder_stamps = [(base, *_stamp(Path(base))) for base, _, _ in os.walk(ingested.root, followlinks=True)]
    arrow_file = ingested.arrow_file.with_name(f"{ingested.arrow_file.stem}-{digest(url, folder_stamps)}.arrow")

    def read(reading: Reading) -> Iterator[pa.RecordBatch]:
        for fault in ingested.faults:
            reading.fault(fault.row, fault.column, fault.kind, fault.reason, fault.remedy)
        for note in ingested.notes:
            reading.note(note)
        yield from add_local_files(ingested.table, url, LocalFiles(ingested.root), reading)

    located = _cached(Source(read, ingested.root, []), arrow_file)
    return located if len(located.table) else ingested


def _cached(source: Source, arrow_file: Path) -> Ingested:
    try:
        return _map(arrow_file, source.root)
    except (FileNotFoundError, NotADirectoryError, pa.ArrowInvalid):  # not there, or damaged
        _write(source, arrow_file)
        return _map(arrow_file, source.root)


def recognize(source: str, options: Options) -> Source:
    """How to read the source, by its name's ending or, of a folder, by what is in it.

    Raises:
        DataError: there is no such source, or it is of no known kind.
    """
    path = Path(os.path.abspath(source))
    images, encoding = options.images, options.encoding
    if images is not None and not images.is_dir():
        raise DataError(f"{images}: there is no such folder of pictures")
    if "{" in source and path.suffix == ".tar":
        tars = [Path(os.path.abspath(tar)) for tar in folders.expand(source)]
        return Source(lambda reading: folders.read_tars(tars, path.parent, reading), path.parent, tars)
    if not path.exists():
        raise DataError(f"{source}: there is no such file or folder (looked in {path.parent})")
    if path.is_dir():
        return _folder(path, options)
    if path.suffix.lower() == ".tar":
        return Source(lambda reading: folders.read_tars([path], path.parent, reading), path.parent, [path])
    if path.suffix.lower() == ".json":
        watched = [path, *([images] if images else [])]
        return Source(lambda reading: json_files.read_json(path, images, reading), path.parent, watched)
    read = _table_reader(path, encoding)
    return Source(read, images.absolute() if images else path.parent, [path])


def _table_reader(path: Path, encoding: str | None) -> Callable[[Reading], Iterator[pa.RecordBatch]]:
    match path.suffix.lower():
        case ".csv":
            return lambda reading: tables.read_delimited(path, ",", encoding, reading)
        case ".tsv" | ".tab":
            return lambda reading: tables.read_delimited(path, "\t", encoding, reading)
        case ".jsonl" | ".ndjson":
            return lambda reading: tables.read_json_lines(path, encoding, reading)
        case ".parquet" | ".pq":
            return lambda reading: tables.read_parquet(path, reading)
        case ending:
            raise DataError(
                f'{path}: unknown ending "{ending}"; wanted .csv, .tsv, .jsonl, .parquet, .json, .tar or a folder'
            )


def _folder(path: Path, options: Options) -> Source:
    tars = sorted(path.glob("*.tar"))
    if tars:
        return Source(lambda reading: folders.read_tars(tars, path, reading), path, [path, *tars])
    metadata = sorted(table for depth in ("", "*/") for name in folders.METADATA for table in path.glob(depth + name))
    if metadata:

        def read(reading: Reading) -> Iterator[pa.RecordBatch]:
            def one(table: Path) -> Iterator[pa.RecordBatch]:
                return _table_reader(table, options.encoding)(reading)

            return folders.read_metadata_folder(metadata, path, one, reading)

        return Source(read, path, [path, *metadata])
    inside = [Path(base) for base, _, _ in os.walk(path, followlinks=True)]
    return Source(lambda reading: folders.read_image_folder(path, reading), path, inside)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns


# ---------------------------------------------------------------------------------------------------------------------
# The cached file, and beside it the faults and notes


def _faults_file(arrow_file: Path) -> Path:
    return arrow_file.with_suffix(".faults")


def _write(source: Source, arrow_file: Path) -> None:
    # Renamed in the order in which they are closed, faults first: a table that is there has its faults there.
    with written_beside(arrow_file) as table, written_beside(_faults_file(arrow_file)) as faults:
        reading = Reading(faults)
        try:
            _write_table(source.read(reading), table)
        except WiderError:
            reading.start_again()
            try:
                _write_table(source.read(reading), table)
            except WiderError as error:
                raise DataError(
                    f"{source.root}: its tables have different columns ({error}); make them equal"
                ) from None
        reading.close()


def _write_table(batches: Iterator[pa.RecordBatch], path: Path) -> None:
    first = next(batches, None)
    if first is None:
        raise DataError("has no rows")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, first.schema) as writer:
        for batch in chain([first], batches):
            if batch.schema != first.schema:  # a second file of a folder brings other columns
                raise WiderError(f"{batch.schema.names} after {first.schema.names}")
            writer.write_batch(batch)


def _map(arrow_file: Path, root: Path) -> Ingested:
    reader = pa.ipc.open_file(pa.memory_map(str(_faults_file(arrow_file))))
    _, metadata = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
    return Ingested(
        table=map_table(arrow_file),
        root=root,
        faults=Faults(reader.read_all()),
        notes=json.loads(metadata[b"notes"]),
        arrow_file=arrow_file,
    )


def map_table(arrow_file: Path) -> pa.Table:
    """The table of a cached file; its pages are read from disk when they are looked at."""
    return pa.ipc.open_file(pa.memory_map(str(arrow_file))).read_all()
