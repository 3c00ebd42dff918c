"""The process in which `cost` measures an artifact: `python -m polymodal.compress.alone FOLDER BATCH`."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from polymodal import artifact
from polymodal.compress.cost import first, nested
from polymodal.encoders import for_use
from polymodal.models.clip import Clip
from polymodal.preprocess import Preprocess

MOST_S = 2.0  # of each batch size
MOST = 50  # calls


def measured(folder: Path, batch: Path) -> dict[str, float]:
    """memory, parameters, latency, throughput: see `cost.Cost`."""
    rows = nested(batch)
    before = psutil.Process().memory_info().rss
    found = artifact.load(folder)
    call = _call(found)
    one = {group: {name: first(value) for name, value in named.items()} for group, named in rows.items()}
    count = len(next(iter(rows.get("present", {"": rows.get("clip", {}).get("pixels")}).values())))
    with torch.inference_mode():
        latency, each = _median(lambda: call(one)), _median(lambda: call(rows))
    return {
        "memory": psutil.Process().memory_info().rss - before,
        "parameters": sum(weight.numel() for weight in found.model.state_dict().values()),
        "latency": latency,
        "throughput": count / each,
    }


def _call(found: artifact.Artifact) -> Callable[[dict[str, dict[str, Any]]], object]:
    model: Any = found.model
    settings: Any = found.preprocess
    if isinstance(model, Clip):
        assert isinstance(settings, Preprocess)
        tower: Any = for_use(model.image_encoder)
        model.image_encoder = tower
        return lambda rows: (
            model.embed_image(settings.image.normalize(rows["clip"]["pixels"])),
            model.embed_text(rows["clip"]["text"]),
        )
    return lambda rows: model(settings.normalize(rows["inputs"]), rows["present"])


def _median(call: Callable[[], object]) -> float:
    """Seconds of a call, after two that warm up."""
    call()
    call()
    times: list[float] = []
    while len(times) < 3 or (len(times) < MOST and sum(times) < MOST_S):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]), Path(sys.argv[2]))))
