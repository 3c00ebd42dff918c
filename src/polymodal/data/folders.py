"""Readers of folders: class folders of pictures with or without a metadata table, and WebDataset tars."""

import json
import os
import re
import tarfile
from collections import ChainMap
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from polymodal.data.decode import EXTENSIONS
from polymodal.data.reading import ROW, Reading, Row, batches_of_rows
from polymodal.errors import DataError

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))
_LABELS = {"cls": "category", "txt": "caption", "text": "caption", "caption": "caption"}
MAX_TEXT = 2**20  # bytes of a text or JSON member of a tar


def list_pictures(folder: Path) -> Iterator[str]:
    """Paths of the pictures below the folder, relative to it, sorted folder by folder; hidden ones are left out."""
    for base, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS:
                yield Path(base, name).relative_to(folder).as_posix()


def read_image_folder(folder: Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Batches of pictures in `<class>/x.png` or `train/<class>/x.png`: columns image, category, split."""
    yield from batches_of_rows(_class_rows(folder, reading), reading)


def _class_rows(folder: Path, reading: Reading) -> Iterator[Row]:
    number = 0
    for number, path in enumerate(list_pictures(folder), 1):
        *parts, _ = path.split("/")
        row: dict[str, Any] = {"image": path}
        if parts and parts[0].lower() in SPLITS:
            row["split"] = parts.pop(0)
        if parts:
            row["category"] = "/".join(parts)
        yield number, row
    if number == 0:
        raise DataError(
            f"{folder}: has no picture in it ({', '.join(sorted(EXTENSIONS))}), no metadata table and no .tar"
        )
    reading.note('columns come from the folders: "category" is the folder of a picture, "split" the one above it')


def read_metadata_folder(
    tables: list[Path], folder: Path, read: Callable[[Path], Iterator[pa.RecordBatch]], reading: Reading
) -> Iterator[pa.RecordBatch]:
    """Batches of the metadata tables of a folder; their `file_name` is relative to each table's own folder."""
    offset = 0
    for table in tables:
        inside = table.parent.relative_to(folder).as_posix()
        last = offset
        for batch in read(table):
            batch = _shifted(batch, offset)
            if "file_name" not in batch.schema.names:
                raise DataError(f'{table}: has no column "file_name", which names the picture of each row')
            if batch.num_rows:
                last = batch[ROW][-1].as_py()
            yield _below(batch, inside)
        offset = last
    if len(tables) > 1:
        reading.note(f"{len(tables)} metadata tables are read as one; rows are numbered through")


def _shifted(batch: pa.RecordBatch, offset: int) -> pa.RecordBatch:
    rows = pc.add(batch[ROW], offset)
    return batch.set_column(batch.schema.get_field_index(ROW), ROW, rows)


def _below(batch: pa.RecordBatch, inside: str) -> pa.RecordBatch:
    if inside == ".":
        return batch
    place = batch.schema.get_field_index("file_name")
    paths = pc.binary_join_element_wise(pa.scalar(inside), batch[place].cast(pa.string()), "/")
    batch = batch.set_column(place, "file_name", paths)
    first = inside.split("/")[0]
    if first.lower() in SPLITS and "split" not in batch.schema.names:
        batch = batch.append_column("split", pa.array([first] * batch.num_rows, pa.string()))
    return batch


# ---------------------------------------------------------------------------------------------------------------------
# WebDataset


def expand(source: str) -> list[Path]:
    """The tars that a name with a brace range stands for: `pairs-{000..003}.tar`.

    Raises:
        DataError: one of them is missing.
    """
    match = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", source)
    if match is None:
        return [Path(source)]
    before, low, high, after = match.groups()
    if int(high) - int(low) >= 1_000_000:
        raise DataError(f"{source}: stands for more than a million files")
    paths = [Path(f"{before}{place:0{len(low)}d}{after}") for place in range(int(low), int(high) + 1)]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise DataError(f"{source}: {len(missing)} of {len(paths)} files are missing, first: {missing[0]}")
    return paths


def read_tars(tars: list[Path], root: Path, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Batches of WebDataset samples: members `key.jpg`, `key.txt`, `key.json`, `key.cls` make one row.

    The picture stays in its tar; the cell `shard.tar#key.jpg@offset+size` says where.
    """
    yield from batches_of_rows(_samples(tars, root, reading), reading)


def _samples(tars: list[Path], root: Path, reading: Reading) -> Iterator[Row]:
    number = 0
    for path in tars:
        shard = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        try:
            with tarfile.open(path, "r:") as tar:
                for key, group in groupby(_files(tar), key=_key):
                    members = list(group)
                    number += 1
                    try:
                        parts = [_read_member(tar, shard, member, reading) for member in members]
                    except _MemberError as error:
                        reading.fault(number, "", "encoding", str(error), "write it again, as UTF-8")
                        continue
                    yield number, dict(ChainMap({"__key__": key}, *parts))
        except (tarfile.TarError, EOFError, OSError) as error:
            number += 1
            reason = f"{shard} is cut off here, or is no tar ({error})"
            reading.fault(number, "image", "archive", reason, "fetch it again")


class _MemberError(Exception):
    pass


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        if member.isfile() and not os.path.basename(member.name).startswith("."):
            yield member
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen


def _key(member: tarfile.TarInfo) -> str:
    folder, name = os.path.split(member.name)
    return os.path.join(folder, name.partition(".")[0])  # as WebDataset: the key ends at the first dot


def _read_member(tar: tarfile.TarFile, shard: str, member: tarfile.TarInfo, reading: Reading) -> dict[str, Any]:
    ending = os.path.basename(member.name).partition(".")[2].lower()
    rest, _, last = ending.rpartition(".")
    if f".{last}" in EXTENSIONS:
        return {f"image.{rest}" if rest else "image": f"{shard}#{member.name}@{member.offset_data}+{member.size}"}
    if ending not in _LABELS and ending != "json":
        reading.note(f"members ending in .{ending} are not read")
        return {}
    if member.size > MAX_TEXT:
        raise _MemberError(f"{member.name} has {member.size} bytes of text, at most {MAX_TEXT} are read")
    file = tar.extractfile(member)
    assert file is not None  # true of every regular file
    try:
        text = file.read().decode()
        value = json.loads(text) if ending == "json" else text.strip()
    except (ValueError, RecursionError) as error:
        raise _MemberError(f"{member.name} cannot be read ({error})") from None
    if ending == "json":
        return value if isinstance(value, dict) else {"json": value}
    return {_LABELS[ending]: value}
