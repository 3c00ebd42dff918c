"""Small models of a table's rows and of pictures and texts, saved as artifacts, for ensembles and soups."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from polymodal import artifact
from polymodal.compress.step import Work
from polymodal.encoders import RecordConfig
from polymodal.features import CategoryColumn, Features, NumberColumn, RecordInput, Target
from polymodal.fusion.late import LateConfig
from polymodal.models.clip import Clip
from polymodal.models.heads import HeadsConfig, LinearHead
from polymodal.models.multimodal import Multimodal, MultimodalConfig
from tests import tiny
from tests.train.multimodal import tables

TARGETS = {
    "price": Target(columns=("price",), task="regression", mean=300.0, std=100.0),
    "defect": Target(columns=("defect",), task="binary", classes=("no", "yes")),
    "color": Target(columns=("color",), task="multiclass", classes=("blue", "green", "red")),
    "rooms": Target(columns=("rooms",), task="multilabel", classes=("bath", "garden")),
    "state": Target(columns=("state",), task="ordinal", classes=("old", "fair", "new")),
}


def features(*names: str, mean: float = 50.0, **changes: Any) -> Features:
    record = RecordInput(
        numbers=(NumberColumn(name="area", mean=mean, std=20.0),),
        categories=(CategoryColumn(name="city", values=("a", "b")),),
    )
    targets = {name: TARGETS[name].model_copy(update=changes) for name in names or TARGETS}
    return Features(inputs={"record": record}, targets=targets)


def features_of(work: Work) -> Features:
    assert isinstance(work.preprocess, Features)
    return work.preprocess


def model(given: Features, seed: int = 0) -> Multimodal:
    torch.manual_seed(seed)
    heads = {name: LinearHead(outputs=target.outputs) for name, target in given.targets.items()}
    return (
        MultimodalConfig(
            encoders={"record": RecordConfig(numbers=1, categories=(4,), width=8, layers=1, heads=2, dropout=0.0)},
            fusion=LateConfig(),
            heads=HeadsConfig(targets=heads),
        )
        .build()
        .eval()
    )


def saved(folder: Path, given: Features | None = None, seed: int = 0, built: Multimodal | None = None) -> Path:
    given = given or features()
    return artifact.save(folder, model=built or model(given, seed), tokenizer=None, preprocess=given)


def clip(folder: Path, built: Clip | None = None, **changes: Any) -> Path:
    given: dict[str, Any] = {
        "model": built or tiny.clip(),
        "tokenizer": tiny.tokenizer(),
        "preprocess": tiny.preprocess(),
    }
    return artifact.save(folder, **(given | changes))


def table(file: Path, rows: int = 60, split: bool = True, seed: int = 0) -> Path:
    """area and city, and targets that go by them; of 6 rows 3 are train, 2 val and 1 test."""
    draw = np.random.default_rng(seed)
    area = draw.uniform(20, 100, rows).round(1)
    city = np.where(draw.random(rows) < 0.5, "a", "b")
    big = area > 60
    columns: dict[str, Any] = {
        "area": area,
        "city": city,
        "price": (4 * area + draw.normal(0, 10, rows)).round(1),
        "defect": np.where(draw.random(rows) < 0.2 + 0.6 * big, "yes", "no"),
        "color": np.where(city == "a", "red", np.where(big, "green", "blue")),
        "rooms": np.where(big, "bath; garden", "bath"),
        "state": np.where(area > 75, "new", np.where(area > 45, "fair", "old")),
    }
    if split:
        columns["split"] = [("train", "train", "train", "val", "val", "test")[row % 6] for row in range(rows)]
    return tables.write(file, **columns)
