"""The folder for what can be made again: tables in Arrow's form, decoded pictures."""

import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polymodal.errors import DataError


def cache_folder() -> Path:
    """`$POLYMODAL_CACHE`, or `polymodal` in the folder that the platform has for caches."""
    if chosen := os.environ.get("POLYMODAL_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/polymodal"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "polymodal/Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polymodal"


def digest(*parts: Any) -> str:
    """16 hex digits that name plain values."""
    return hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=8).hexdigest()


def free_bytes(folder: Path) -> int:
    """Room on the disk that `folder` is, or would be, on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def written_beside(path: Path, remedy: str = "set POLYMODAL_CACHE to another folder") -> Iterator[Path]:
    """A new name beside `path` to write to; it becomes `path` if all goes well and is removed if not.

    A reader never sees half a file, also after a kill. Of two processes that write the same, the later one stays.

    Raises:
        DataError: the folder cannot be written to, or the disk is full.
    """
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
            if time.time() - left_over.stat().st_mtime > 3600:  # of a process that was killed
                left_over.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".part")
        os.close(handle)
        yield Path(name)
        os.chmod(name, 0o644)  # mkstemp gives 0600
        os.replace(name, path)
    except OSError as error:
        raise DataError(
            f"{path.parent}: cannot be written to ({error.strerror or error}); make room there, or {remedy}"
        ) from None
    finally:
        if name:
            Path(name).unlink(missing_ok=True)
