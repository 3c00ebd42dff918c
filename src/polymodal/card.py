"""The model card: README.md of an artifact, with the YAML header that model hubs read."""

import math
from collections.abc import Mapping
from typing import Any, Literal

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


Use = Literal["zero-shot", "embed", "predict"]
_PIPELINES: Mapping[Use, str | None] = {
    "zero-shot": "zero-shot-image-classification",
    "embed": "image-feature-extraction",
    "predict": None,  # the hubs have no word for several inputs with several targets
}
_SPACE = "A model of pictures and texts in one space of vectors."
_VECTORS = 'engine = pm.load("path/to/{name}")\nvectors = engine.embed(images=["picture.jpg"])'
_PREDICTIONS = 'predictor = pm.load("path/to/{name}")\npredictions = predictor.predict([{{"column": "value"}}])'


def write_card(name: str, card: Card, *, weights: int, metrics: Mapping[str, Any], use: Use) -> str:
    """The card's markdown.

    Args:
        name: of the model, the heading.
        weights: how many numbers the model holds.
        metrics: nested plain values; every finite number becomes a row of the table under its dotted name.
        use: what the model is for.
    """
    numbers = dict(_numbers(metrics))
    header = {
        "library_name": "polymodal",
        "pipeline_tag": _PIPELINES[use],
        "tags": ["polymodal", "multimodal" if use == "predict" else "clip", *card.tags],
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

{card.description or ("A model of a table's rows." if use == "predict" else _SPACE)}

{weights:,} weights, written by polymodal {__version__}.

## Use

```python
import polymodal as pm

{(_PREDICTIONS if use == "predict" else _VECTORS).format(name=name)}
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
