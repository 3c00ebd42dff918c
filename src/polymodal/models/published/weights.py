"""Files of weights: safetensors, one or in shards, and torch files without code in them."""

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from polymodal.errors import ArtifactError
from polymodal.models.published.keymap import State

JSON_LIMIT = 64 * 2**20  # bytes; a sharded index of the largest models has a few
TORCH_SUFFIXES = (".pt", ".pth", ".bin")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ArtifactError: it is missing, too large, damaged, or no object.
    """
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise ArtifactError(f"{path}: more than {JSON_LIMIT >> 20} MiB of JSON; this is no settings file")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: is damaged: {error}; fetch it again") from None
    if not isinstance(data, dict):
        raise ArtifactError(f"{path}: wanted a JSON object, got a {type(data).__name__}")
    return data


def read_weights(path: Path) -> State:
    """The tensors of a file, or of a folder: model.safetensors, its shards, or pytorch_model.bin.

    Raises:
        ArtifactError: there is none, it is damaged, or it holds something else than tensors.
    """
    if path.is_file():
        return _read_file(path)
    if (path / "model.safetensors").is_file():
        return _read_file(path / "model.safetensors")
    if (path / "model.safetensors.index.json").is_file():
        return _read_shards(path, read_json(path / "model.safetensors.index.json"))
    if (path / "pytorch_model.bin").is_file():
        return _read_file(path / "pytorch_model.bin")
    raise ArtifactError(
        f"{path}: wanted model.safetensors (or its shards with model.safetensors.index.json), got neither; "
        "a checkpoint kept as pytorch_model.bin on the hub must be downloaded into a folder first"
    )


def _read_shards(folder: Path, index: dict[str, Any]) -> State:
    state: State = {}
    for name in sorted(set(index.get("weight_map", {}).values())):
        if Path(name).name != name:
            raise ArtifactError(f'{folder}: the index names "{name}", which is outside of the folder')
        state |= _read_file(folder / name)
    missing = sorted(index.get("weight_map", {}).keys() - state.keys())
    if missing or not state:
        raise ArtifactError(f"{folder}: the shards lack {len(missing)} tensors of the index, first: {missing[:1]}")
    return state


def _read_file(path: Path) -> State:
    if not path.is_file():
        raise ArtifactError(f"{path}: is missing; fetch the checkpoint again")
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: is damaged or no safetensors file ({error}); fetch it again") from None


def _read_torch(path: Path) -> State:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)  # refuses anything but plain data
    except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        hint = "is damaged, or holds code"
        if "TorchScript" in str(error):
            hint = "is a TorchScript archive, which holds code"
        raise ArtifactError(
            f"{path}: {hint}; where you trust it, save its state_dict() as safetensors and load that"
        ) from None
    if isinstance(data, dict) and isinstance(data.get("state_dict"), dict):
        data = data["state_dict"]
    if not isinstance(data, dict) or not all(isinstance(value, Tensor) for value in data.values()) or not data:
        raise ArtifactError(f"{path}: wanted a state dict (name -> tensor), got something else")
    return {name.removeprefix("module."): value for name, value in data.items()}


def write_weights(path: Path, state: State) -> None:
    """A safetensors file, as Hugging Face's libraries write theirs; written beside and renamed."""
    part = path.with_name(path.name + ".part")
    save_file(state, part, metadata={"format": "pt"})
    part.replace(path)
