"""The model card: README.md of an artifact, with the YAML header that model hubs read."""

import math
from collections.abc import Mapping
from typing import Any

import yaml

from polymodal.config import Config
from polymodal.version import __version__


class Card(Config):
    """What a model card says that the artifact's other files do not."""

    description: str = ""
    license: str | None = None  # an SPDX name such as apache-2.0; of the weights, not of this program
    language: tuple[str, ...] = ()  # en, zh, ...
    datasets: tuple[str, ...] = ()
    base_model: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def write_card(name: str, card: Card, *, weights: int, metrics: Mapping[str, Any], has_text: bool) -> str:
    """The card's markdown.

    Args:
        name: of the model, the heading.
        weights: how many numbers the model holds.
        metrics: nested plain values; every finite number becomes a row of the table under its dotted name.
        has_text: whether the artifact reads texts as they are (it has a tokenizer).
    """
    numbers = dict(_numbers(metrics))
    header = {
        "library_name": "polymodal",
        "pipeline_tag": "zero-shot-image-classification" if has_text else "image-feature-extraction",
        "tags": ["polymodal", "clip", *card.tags],
        "license": card.license,
        "language": list(card.language),
        "datasets": list(card.datasets),
        "base_model": list(card.base_model),
        "metrics": list(numbers),
    }
    known = {key: value for key, value in header.items() if value}
    rows = "\n".join(f"| {key} | {value:.6g} |" for key, value in numbers.items())
    table = f"| metric | value |\n|---|---|\n{rows}" if rows else "Nothing was measured when this was saved."
    return f"""---
{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---

# {name}

{card.description or "A model of pictures and texts in one space of vectors."}

{weights:,} weights, written by polymodal {__version__}.

## Use

```python
import polymodal as pm

engine = pm.load("path/to/{name}")
vectors = engine.embed(images=["picture.jpg"])
```

## Measured

{table}
"""


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found.append((f"{prefix}{key}", float(value)))
    return found
