"""Checkpoints of a run: everything that is needed to go on, as safetensors and JSON, never a pickle.

    checkpoints/
      index.json                 which are there, in the order in which they were saved, and which is the best
      step-00000400/
        state.json               the nested state; a tensor stands there by its name
        tensors.safetensors
        SHA256SUMS

A checkpoint is written beside its place, flushed to the disk and then renamed into it; older ones go only afterwards.
So a kill or a full disk at any moment leaves the previous checkpoint whole.
"""

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from polymodal.errors import ArtifactError, TrainError

STATE, TENSORS, SUMS, INDEX = "state.json", "tensors.safetensors", "SHA256SUMS", "index.json"


def save(state: dict[str, Any], folder: Path) -> None:
    """Write a checkpoint; one of the same name is replaced once the new one is whole.

    Args:
        state: nested dicts, lists and tuples of tensors and plain values.

    Raises:
        TrainError: it cannot be written (no space, no permission), or it holds something that is no plain value.
    """
    fresh = folder.with_name(f".{folder.name}.writing")
    try:
        shutil.rmtree(fresh, ignore_errors=True)  # of a run that was killed
        fresh.mkdir(parents=True)
        _write(state, fresh)
        _replace(folder, fresh)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TrainError(
            f"{folder}: the checkpoint cannot be written ({reason}); earlier checkpoints are untouched: "
            "make room, then go on with `polymodal fit --resume`"
        ) from error


def load(folder: Path) -> dict[str, Any]:
    """The state that `save` was given.

    Raises:
        ArtifactError: a file is missing, cut short or changed; it is named, with what to do.
    """
    if not folder.exists() and _replaced(folder).exists():  # killed between the two renames of `_replace`
        folder = _replaced(folder)
    try:
        for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
            wanted, name = line.split("  ")
            if _sha256(folder / name) != wanted:
                raise ValueError(f"{name} was changed or cut short after it was written")
        plain = json.loads((folder / STATE).read_text(encoding="utf-8"))
        state = _decode(plain, load_file(folder / TENSORS))
    except FileNotFoundError as error:
        raise _damaged(folder, f"{Path(error.filename).name} is missing") from None
    except (OSError, ValueError, SafetensorError, LookupError) as error:
        raise _damaged(folder, str(error)) from None
    if not isinstance(state, dict):
        raise _damaged(folder, f"{STATE} holds no state")
    return state


def _damaged(folder: Path, reason: str) -> ArtifactError:
    others = [name for name in read_index(folder.parent).saved if name != folder.name]
    remedy = f"go on from the one before it: `--resume {folder.parent / others[-1]}`" if others else "train again"
    return ArtifactError(f'checkpoint "{folder}": {reason}; {remedy}')


class Index(NamedTuple):
    """What `index.json` says."""

    saved: tuple[str, ...] = ()  # names of folders; the last one was saved last
    best: str | None = None
    best_value: float | None = None  # of the metric that is watched


def read_index(folder: Path) -> Index:
    """The index of a `checkpoints` folder; an empty one when there is none."""
    try:
        data = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return Index(tuple(data["saved"]), data["best"], data["best_value"])
    except FileNotFoundError:
        return Index()
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ArtifactError(
            f'checkpoints "{folder}": {INDEX} cannot be read ({error}); '
            "name the checkpoint itself: `--resume RUN/checkpoints/step-...`"
        ) from None


def write_index(folder: Path, index: Index) -> None:
    fresh = folder / f".{INDEX}.writing"
    _write_file(fresh, json.dumps(index._asdict(), indent=2))
    fresh.replace(folder / INDEX)
    _flush(folder)


def record(folder: Path, name: str, *, keep: int, value: float | None = None, best: bool = False) -> None:
    """Enter the checkpoint `name`, just saved, into the index; then remove those that are no longer wanted.

    Args:
        keep: how many of the last ones stay; the best one stays besides.
        value: what the watched metric was, when there was one.
        best: whether this is the best so far.
    """
    index = read_index(folder)
    saved = [*(other for other in index.saved if other != name), name]
    if best:
        index = index._replace(best=name, best_value=value)
    kept = [other for place, other in enumerate(saved, 1) if place > len(saved) - keep or other == index.best]
    write_index(folder, index._replace(saved=tuple(kept)))
    for other in set(saved) - set(kept):
        shutil.rmtree(folder / other, ignore_errors=True)


def _write(state: dict[str, Any], folder: Path) -> None:
    tensors: dict[str, Tensor] = {}
    plain = _encode(state, "", tensors)
    _write_file(folder / STATE, json.dumps(plain, allow_nan=False))
    save_file(_apart(tensors), folder / TENSORS)
    _flush(folder / TENSORS)
    _write_file(folder / SUMS, "".join(f"{_sha256(folder / name)}  {name}\n" for name in (STATE, TENSORS)))
    _flush(folder)


def _encode(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for `value`. Lists and plain values stand for themselves; all else is an object with one key, its type."""
    match value:
        case Tensor():
            tensors[where] = value.detach().cpu().contiguous()
            return {"tensor": where}
        case dict():
            return {"dict": [[key, _encode(inner, f"{where}/{key}", tensors)] for key, inner in value.items()]}
        case list():
            return [_encode(inner, f"{where}/{place}", tensors) for place, inner in enumerate(value)]
        case tuple():
            return {"tuple": [_encode(inner, f"{where}/{place}", tensors) for place, inner in enumerate(value)]}
        case float() if not math.isfinite(value):
            return {"float": str(value)}
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return {"path": str(value)}
    raise TrainError(f"checkpoint: {where} is a {type(value).__name__}; only tensors and plain values can be kept")


def _decode(plain: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(plain, list):
        return [_decode(inner, tensors) for inner in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, inner),) = plain.items()
    match kind:
        case "tensor":
            return tensors[inner]
        case "dict":
            return {key: _decode(value, tensors) for key, value in inner}
        case "tuple":
            return tuple(_decode(value, tensors) for value in inner)
        case "float":
            return float(inner)
        case "path":
            return Path(inner)
    raise ValueError(f"{STATE} holds an unknown kind of value, {kind!r}")


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none of them sharing memory with another, which safetensors refuses."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return apart


def _replace(folder: Path, fresh: Path) -> None:
    if folder.exists():
        shutil.rmtree(_replaced(folder), ignore_errors=True)
        folder.rename(_replaced(folder))
    fresh.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(_replaced(folder), ignore_errors=True)


def _replaced(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def _write_file(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    _flush(file)


def _flush(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
