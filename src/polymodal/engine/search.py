"""Questions to a table: a text or a picture in, the nearest pictures or texts out. Exact, by cosine.

The table's vectors are computed at the first question and kept in the cache folder, under a name that changes with the
model, the table, the selected rows and the picture files.
Shapes: E entries; D width of the vectors.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from polymodal.data.cache import cache_folder, digest
from polymodal.data.decode import describe, resolve
from polymodal.data.faults import Faults
from polymodal.data.manifest import Manifest
from polymodal.engine.engine import Engine, Vectors
from polymodal.engine.pictures import Picture
from polymodal.engine.tables import TableVectors, Want, embed_table
from polymodal.errors import ConfigError, DataError

FORMAT = 1  # of the cached files
BLOCK = 65_536  # entries compared at a time


@dataclass(frozen=True)
class Hit:
    score: float  # cosine, -1 to 1
    row: int  # number in the source, from 1
    place: int  # of the row in the manifest, from 0
    image: str | None  # what names the row's picture; None when there is none
    texts: list[str]  # the text that was found; for a found picture all texts of its row


@dataclass(frozen=True)
class Answers:
    hits: list[Hit]  # the nearest first; equal ones in the table's order
    searched: int  # different pictures or texts that were compared
    faults: Faults  # what could not be


def query(
    engine: Engine,
    manifest: Manifest,
    *,
    text: str | None = None,
    image: Picture | None = None,
    want: Want = "images",
    k: int = 5,
    progress: bool = False,
) -> Answers:
    """The `k` nearest different pictures or texts of a table.

    Args:
        text: the question, or else
        image: a picture as the question.
        want: what is searched.

    Raises:
        ConfigError: not exactly one question, or `k` is below 1.
        DataError: the question cannot be read, or the table has nothing of what is wanted.
    """
    if (text is None) == (image is None):
        raise ConfigError("query: give a text or an image as the question, one of the two")
    if k < 1:
        raise ConfigError(f"query: k must be at least 1, got {k}")
    try:
        asked = engine.embed(images=[image]) if image is not None else engine.embed(texts=[str(text)])
    except DataError as error:
        raise DataError(f"query: the question cannot be used: {str(error).split(': ', 2)[2]}") from None
    table = table_vectors(engine, manifest, want, progress=progress)
    places, scores = nearest(asked[0], table.vectors, k)
    hits = [
        _hit(manifest, want, int(table.places[place]), int(table.captions[place]), float(score))
        for place, score in zip(places, scores, strict=True)
    ]
    return Answers(hits, len(table.vectors), table.faults)


def nearest(asked: Vectors, vectors: Vectors, k: int) -> tuple[NDArray[np.int64], Vectors]:
    """Places and scores of the `k` vectors (E, D) with the largest product with `asked` (D,); ties: the earlier one."""
    places: NDArray[np.int64] = np.empty(0, np.int64)
    scores: Vectors = np.empty(0, np.float32)
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK] @ asked
        places = np.concatenate([places, np.arange(start, start + len(block))])
        scores = np.concatenate([scores, block])
        if len(scores) > k:
            bar = np.partition(scores, -k)[-k]
            kept = np.flatnonzero(scores >= bar)
            kept = kept[np.argsort(-scores[kept], kind="stable")][:k]
            kept.sort()  # the table's order again, on which the next round's ties depend
            places, scores = places[kept], scores[kept]
    order = np.argsort(-scores, kind="stable")
    return places[order], scores[order]


def _hit(manifest: Manifest, want: Want, place: int, caption: int, score: float) -> Hit:
    captions = manifest.captions(place) if manifest.text else []
    try:
        image = describe(manifest.image_reference(place)) if manifest.image else None
    except DataError:  # a text may be found whose picture is missing
        image = None
    texts = captions if want == "images" else [captions[caption]]
    return Hit(score, int(manifest.row_numbers[place]), place, image, texts)


def table_vectors(engine: Engine, manifest: Manifest, want: Want, *, progress: bool = False) -> TableVectors:
    """The vectors of the table's different pictures or texts: from the cache, or computed and put there.

    Raises:
        DataError: the table has nothing of what is wanted, or the cache folder cannot be written to.
    """
    decoding = engine.preprocess.image.decoding  # may be another than the artifact's
    identity = digest(
        os.path.abspath(manifest.source), want, engine.checksum, engine.backend.name, engine.precision, decoding
    )
    folder = cache_folder() / "vectors" / f"{identity}-{_state(manifest, want)}"
    if not folder.exists():
        _compute(engine, manifest, want, folder, progress)
        for stale in folder.parent.glob(f"{identity}-*"):
            if stale != folder:  # of an earlier state of the table; whoever has it mapped keeps it
                shutil.rmtree(stale, ignore_errors=True)
    return TableVectors(
        np.load(folder / "vectors.npy", mmap_mode="r"),
        np.load(folder / "places.npy"),
        np.load(folder / "captions.npy"),
        Faults(pq.read_table(folder / "faults.parquet")),
    )


def _compute(engine: Engine, manifest: Manifest, want: Want, folder: Path, progress: bool) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="writing-", ignore_cleanup_errors=True) as beside:
            fresh = Path(beside) / "done"
            fresh.mkdir()
            file = fresh / "vectors.npy"
            found = embed_table(engine, manifest, want, file, unique=True, progress=progress)
            np.save(fresh / "places.npy", found.places)
            np.save(fresh / "captions.npy", found.captions)
            pq.write_table(found.faults.table, fresh / "faults.parquet")
            if not folder.exists():  # another process may have been quicker; its files are the same
                fresh.rename(folder)
    except OSError as error:
        raise DataError(
            f"{folder.parent}: cannot be written to ({error.strerror or error}); "
            "make room there, or set POLYMODAL_CACHE to another folder"
        ) from None


def _state(manifest: Manifest, want: Want) -> str:
    """Names the rows and columns that are searched, and for pictures in files their sizes and times."""
    state = hashlib.blake2b(digest_size=8)
    state.update(repr((FORMAT, manifest.stamp, manifest.image, manifest.text)).encode())
    state.update(manifest.row_numbers.tobytes())
    if want == "images" and manifest.image and not _holds_bytes(manifest.column(manifest.image).type):
        for batch in manifest.batches([manifest.image]):
            for reference in batch.column(manifest.image).to_pylist():
                state.update(repr(_stamp(reference, manifest.root)).encode())
    return state.hexdigest()


def _holds_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_struct(kind))


def _stamp(reference: object, root: Path) -> tuple[int, int] | None:
    """(size, time of change) of the file, or None where there is none: the reference is in the table's own stamp."""
    if not isinstance(reference, str) or len(reference) > 1000:  # base64
        return None
    tar, sign, _ = reference.strip().partition(".tar#")
    try:
        about = resolve(f"{tar}.tar" if sign else tar, root).stat()
    except (OSError, ValueError):
        return None
    return about.st_size, about.st_mtime_ns
