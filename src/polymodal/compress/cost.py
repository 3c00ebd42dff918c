"""What an artifact costs: bytes on disk, memory, time. Measured in a process of its own, that nothing else disturbs."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from polymodal import types
from polymodal.errors import ArtifactError
from polymodal.types import Batch, ImageTextBatch

SECONDS = 300  # that a measurement may take


class Cost(NamedTuple):
    bytes: int  # of the artifact's files
    memory: int  # bytes by which a process grows that loads and uses it
    parameters: int
    latency: float  # seconds for one row, the median
    throughput: float  # rows a second of batches of 32, the median


def cost(folder: Path, batch: ImageTextBatch | Batch) -> Cost:
    """Of the artifact in `folder`, with torch, on this machine; of pictures and texts a row is a pair.

    Args:
        batch: up to 32 rows, as the data gives them.

    Raises:
        ArtifactError: it cannot be loaded or run.
    """
    given = folder.with_name(f"{folder.name}.batch")  # beside it: what is in an artifact is looked at
    save_file(flat(batch), given)
    words = [sys.executable, "-m", "polymodal.compress.alone", str(folder), str(given)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ArtifactError(f'artifact "{folder}": {len(batch.rows)} rows take more than {SECONDS} s') from None
    finally:
        given.unlink()
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it was stopped"])[-1]
        raise ArtifactError(f'artifact "{folder}": cannot be measured: {last}')
    size = sum(file.stat().st_size for file in folder.iterdir())
    return Cost(bytes=size, **json.loads(done.stdout.splitlines()[-1]))


# ---------------------------------------------------------------------------------------------------------------------
# A batch in a file


def flat(batch: ImageTextBatch | Batch) -> dict[str, Tensor]:
    """The inputs of a batch under names that `nested` reads."""
    if isinstance(batch, ImageTextBatch):
        named: Mapping[str, Any] = {"pixels": batch.pixels, "text": batch.text}
        return _parts("clip", named)
    return _parts("inputs", batch.inputs) | _parts("present", batch.present)


def nested(file: Path) -> dict[str, dict[str, Any]]:
    """group -> name -> tensor, or what `types` holds of several."""
    found: dict[str, dict[str, Any]] = {}
    parts: dict[tuple[str, str, str], dict[str, Tensor]] = {}
    for key, tensor in load_file(file).items():
        group, kind, part, name = key.split("/", 3)
        if kind:
            parts.setdefault((group, kind, name), {})[part] = tensor
        else:
            found.setdefault(group, {})[name] = tensor
    for (group, kind, name), fields in parts.items():
        found.setdefault(group, {})[name] = getattr(types, kind)(**fields)
    return found


def first(value: Any) -> Any:
    """The first row of an input."""
    if isinstance(value, Tensor):
        return value[:1]
    return type(value)(*(None if part is None else part[:1] for part in value))


def _parts(group: str, named: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {}
    for name, value in named.items():
        if isinstance(value, Tensor):
            found[f"{group}///{name}"] = value.contiguous()
            continue
        kind = type(value).__name__
        for part, tensor in value._asdict().items():
            if tensor is not None:
                found[f"{group}/{kind}/{part}/{name}"] = tensor.contiguous()
    return {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in found.items()}
