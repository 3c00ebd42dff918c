"""Vectors that were computed before, by what they are of: a file for all models, of bounded size.

Shapes: D width of a vector.
"""

import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from polymodal.data.cache import cache_folder
from polymodal.data.decode import is_base64, resolve
from polymodal.errors import DataError

Vectors = NDArray[np.float32]
MAX_BYTES = 2**30  # of vectors; a million of width 256
ROWS_AT_ONCE = 500  # names in one question; SQLite takes 999 in any build
KEPT = 0.9  # share of the room that is still full after old vectors went, so that they do not go one by one


class VectorCache:
    """Safe to use from several threads, and from several processes at once.

    The vectors that were not asked for the longest go first.
    """

    def __init__(self, file: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        """
        Args:
            file: None: vectors.sqlite in the cache folder.

        Raises:
            DataError: the file cannot be written, or is no such file.
        """
        self.file, self.max_bytes = file or cache_folder() / "vectors.sqlite", max_bytes
        self._lock = threading.Lock()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.file, timeout=30, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")  # others read while one writes
            self._database.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost vectors, never the file
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, used REAL, vector BLOB) WITHOUT ROWID"
            )
            self._database.execute("CREATE INDEX IF NOT EXISTS by_use ON vectors (used)")
        except (sqlite3.Error, OSError) as error:
            raise self._fault(error) from None

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Vectors]:
        """Those that are there, (D,) by key; each counts as used now."""
        wanted = list(keys)
        found: dict[bytes, Vectors] = {}
        with self._lock:
            try:
                for start in range(0, len(wanted), ROWS_AT_ONCE):
                    part = wanted[start : start + ROWS_AT_ONCE]
                    marks = ", ".join("?" * len(part))
                    question = f"SELECT key, vector FROM vectors WHERE key IN ({marks})"
                    rows = self._database.execute(question, part).fetchall()
                    found |= {bytes(key): np.frombuffer(vector, "<f4") for key, vector in rows}
                now = time.time()
                with self._database:
                    self._database.executemany(
                        "UPDATE vectors SET used = ? WHERE key = ?", [(now, key) for key in found]
                    )
            except sqlite3.Error as error:
                raise self._fault(error) from None
        return found

    def put(self, vectors: Mapping[bytes, Vectors]) -> None:
        """Keep these; the oldest go where there is no room."""
        now = time.time()
        rows = [(key, now, np.ascontiguousarray(vector, "<f4").tobytes()) for key, vector in vectors.items()]
        with self._lock:
            try:
                with self._database:
                    self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
                    self._make_room()
            except sqlite3.Error as error:
                raise self._fault(error) from None

    def __len__(self) -> int:
        with self._lock:
            return int(self._database.execute("SELECT count(*) FROM vectors").fetchone()[0])

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _make_room(self) -> None:
        count, size = self._database.execute(
            "SELECT count(*), sum(length(key) + length(vector)) FROM vectors"
        ).fetchone()
        if count and size > self.max_bytes:
            kept = int(count * KEPT * self.max_bytes / size)
            self._database.execute(
                "DELETE FROM vectors WHERE key IN (SELECT key FROM vectors ORDER BY used LIMIT ?)", (count - kept,)
            )

    def _fault(self, error: Exception) -> DataError:
        return DataError(
            f"{self.file}: the cache of vectors cannot be used ({error}); make room there, remove the file, or set "
            "POLYMODAL_CACHE to another folder"
        )


def content_of(item: object, root: Path) -> bytes | None:
    """What an item is made of, hashed; None where that is not known before it is opened, or it cannot be read.

    Args:
        item: a text, or a picture as `Engine.embed` takes it.
        root: the folder against which relative paths resolve.
    """
    if isinstance(item, np.ndarray):
        return _sha(f"array {item.shape} {item.dtype}".encode(), np.ascontiguousarray(item).tobytes())
    if isinstance(item, Image.Image):
        try:
            return _sha(f"picture {item.mode} {item.size}".encode(), item.tobytes())
        except (OSError, ValueError, SyntaxError):  # decoding says what is wrong
            return None
    if isinstance(item, bytes):
        return _sha(b"file", item)
    if isinstance(item, str) and (item.startswith("data:") or is_base64(item)):
        return _sha(b"uri", item.encode())
    if isinstance(item, str | Path):
        try:
            return _sha(b"file", resolve(str(item), root).read_bytes())
        except (OSError, ValueError):  # an address, a member of an archive, or nothing
            return None
    return None


def _sha(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha256(kind + b"\0" + content).digest()
