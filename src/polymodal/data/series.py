"""Sequences of steps of several channels each: a file of NumPy, or lists of numbers in the cell itself.

Shapes: L steps, C channels.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.data.decode import read_bytes
from polymodal.data.faults import CellError
from polymodal.data.values import parsed_json

MAX_UNPACKED = 2**30  # bytes of one array; a small .npz may unpack to terabytes


def read_series(value: Any, root: Path | None = None) -> NDArray[np.float32]:
    """(L, C) of one cell; NaN where a value is missing or infinite.

    Args:
        value: a path of a .npy, or of a .npz of one array, or the bytes of such a file; a list of numbers (one
            channel) or of lists of numbers (the steps), also as JSON; an array.
        root: folder that a relative path is relative to.

    Raises:
        CellError: there is no such file, it is damaged, or it holds something else.
    """
    name = _name(value)
    arrays = {"": value} if isinstance(value, np.ndarray) else _arrays(value, root, name)
    if len(arrays) != 1:
        reason = f"holds {len(arrays)} arrays ({', '.join(list(arrays)[:4])}), wanted one"
        raise CellError(name, "several-arrays", reason, "save each as a .npy")
    [found] = arrays.values()
    if found.ndim not in (1, 2) or found.size == 0 or found.dtype.kind not in "fiub":
        reason = f"is of shape {found.shape} and type {found.dtype}, wanted numbers of shape (steps, channels)"
        raise CellError(name, "not-a-series", reason, "save it so, or leave it out")
    with np.errstate(over="ignore"):  # too large for float32 is infinite
        steps = found.reshape(len(found), -1).astype(np.float32)
    steps[~np.isfinite(steps)] = np.nan
    return steps


def read_arrays(value: Any, root: Path | None, keys: frozenset[str]) -> tuple[str, dict[str, NDArray[Any]]]:
    """What errors call the cell, and its arrays by name: of a .npz, a mapping, or a JSON object.

    Args:
        keys: names that are read; others are not unpacked.

    Raises:
        CellError: there is no such file, or it is damaged.
    """
    name = _name(value)
    return name, _arrays(value, root, name, keys)


def _arrays(value: Any, root: Path | None, name: str, keys: frozenset[str] | None = None) -> dict[str, NDArray[Any]]:
    given = parsed_json(value) if isinstance(value, str) else value
    if isinstance(given, Mapping):
        return {
            key: _array(one, name) for key, one in given.items() if one is not None and (keys is None or key in keys)
        }
    if isinstance(given, list | tuple):
        return {"": _array(given, name)}
    content = read_bytes(value.strip() if isinstance(value, str) else value, root)
    try:
        return _unpacked(content, keys)
    except CellError:
        raise
    except Exception as error:  # zipfile and NumPy raise anything on damaged bytes
        raise CellError(name, "unreadable", f"is no file of NumPy arrays ({error})", "save it by numpy.save") from None


def _unpacked(content: bytes, keys: frozenset[str] | None) -> dict[str, NDArray[Any]]:
    if not content.startswith(b"PK"):
        return {"": np.load(io.BytesIO(content), allow_pickle=False)}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {Path(info.filename).stem: info for info in archive.infolist()}
        wanted = {key: info for key, info in members.items() if keys is None or key in keys}
        if (size := sum(info.file_size for info in wanted.values())) > MAX_UNPACKED:
            raise ValueError(f"it unpacks to {size} bytes, at most {MAX_UNPACKED} are read")
        return {key: np.load(io.BytesIO(archive.read(info)), allow_pickle=False) for key, info in wanted.items()}


def _array(value: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(value, np.float64)  # None becomes NaN
    except (ValueError, TypeError):
        reason = "holds lists of unequal lengths, or something that is no number"
        raise CellError(name, "not-a-series", reason, "give every step the same channels") from None


def _name(value: Any) -> str:
    return value if isinstance(value, str) and len(value) < 200 and not value.startswith(("[", "{")) else "the cell"
