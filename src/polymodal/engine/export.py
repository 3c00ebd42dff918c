"""The vectors of a table as a file for other programs: .npz, .npy or .parquet."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polymodal.data.cache import written_beside
from polymodal.data.decode import describe
from polymodal.data.faults import Faults
from polymodal.data.manifest import Manifest
from polymodal.engine.engine import BATCH_SIZE, Engine
from polymodal.engine.tables import TableVectors, Want, embed_table
from polymodal.errors import ConfigError

ENDINGS = (".npz", ".npy", ".parquet")
GROUP = 16_384  # rows of a Parquet row group


@dataclass(frozen=True)
class Exported:
    count: int
    faults: Faults
    faults_file: Path | None  # None when there are none


def check_name(out: Path) -> None:
    """
    Raises:
        ConfigError: the name's ending says no format that we write, or its folder is not there.
    """
    if out.suffix not in ENDINGS:
        raise ConfigError(f"--out {out}: wanted a name that ends in {', '.join(ENDINGS)}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it first")


def export(
    engine: Engine,
    manifest: Manifest,
    want: Want,
    out: Path,
    *,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> Exported:
    """Write the vectors of every picture or text of the table; what was there under the name is replaced at the end.

    Raises:
        ConfigError: the name has another ending.
        DataError: the table has nothing of what is wanted, or the folder cannot be written to.
    """
    check_name(out)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
        file = Path(beside) / "vectors.npy"
        found = embed_table(engine, manifest, want, file, batch_size=batch_size, progress=progress)
        rows = manifest.row_numbers[found.places]
        if out.suffix == ".npy":
            file.replace(out)
            with written_beside(out.with_suffix(".rows.npy")) as fresh, fresh.open("wb") as stream:
                np.save(stream, rows)
        else:
            with written_beside(out) as fresh:
                if out.suffix == ".parquet":
                    _write_parquet(fresh, manifest, want, found)
                else:
                    with fresh.open("wb") as stream:
                        np.savez(stream, vectors=found.vectors, rows=rows, captions=found.captions)
    faults_file = out.with_name(f"{out.name}.faults.jsonl")
    faults_file.unlink(missing_ok=True)  # of an earlier run
    if len(found.faults):
        with written_beside(faults_file) as fresh, fresh.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(fault._asdict(), ensure_ascii=False) + "\n" for fault in found.faults)
    return Exported(len(found.vectors), found.faults, faults_file if len(found.faults) else None)


def _write_parquet(file: Path, manifest: Manifest, want: Want, found: TableVectors) -> None:
    width = found.vectors.shape[1]
    name = "picture" if want == "images" else "text"
    schema = pa.schema(
        [("row", pa.int64()), ("caption", pa.int64()), (name, pa.string()), ("vector", pa.list_(pa.float32(), width))]
    )
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, len(found.vectors), GROUP):
            part = slice(start, start + GROUP)
            places, captions = found.places[part], found.captions[part]
            if want == "images":
                names = [describe(manifest.image_reference(int(place))) for place in places]
            else:
                names = [
                    manifest.captions(int(place))[caption] for place, caption in zip(places, captions, strict=True)
                ]
            flat = pa.array(np.asarray(found.vectors[part]).reshape(-1))
            vectors = pa.FixedSizeListArray.from_arrays(flat, width)
            columns = [pa.array(manifest.row_numbers[places]), pa.array(captions), pa.array(names), vectors]
            writer.write_table(pa.table(columns, schema=schema))
