"""A small model of a picture, a text and targets, with one batch, for the objectives."""

from functools import cache
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from polymodal.features import Features
from polymodal.models.multimodal import Multimodal, MultimodalConfig
from polymodal.objectives.joint import Joint, JointObjectiveConfig, JointStep, build_objectives
from polymodal.text import Tokenizer, train_tokenizer
from polymodal.types import Batch, Regions, Text
from tests import tiny

ROWS = 6
TARGETS: dict[str, Any] = {
    "sick": {"columns": ["sick"], "task": "binary", "classes": ["no", "yes"]},
    "kind": {"columns": ["kind"], "task": "multiclass", "classes": ["a", "b", "c"]},
}
HEADS: dict[str, Any] = {"sick": {"kind": "linear", "outputs": 1}, "kind": {"kind": "linear", "outputs": 3}}
EARLY = {"kind": "early", "width": 16, "layers": 1, "heads": 2}
REGIONS = {"kind": "regions", "feature_width": 5, "width": 16, "heads": 2, "dropout": 0.0, "global_region": True}


@cache
def tokenizer() -> Tokenizer:
    return train_tokenizer(tiny.CAPTIONS * 2, "wordpiece", vocab_size=300, min_frequency=1)


def features(targets: dict[str, Any] | None = None, regions: bool = False, classes: int = 0) -> Features:
    inputs: dict[str, Any] = {
        "image": {"kind": "image", "column": "image"},
        "text": {"kind": "text", "columns": ["text"]},
    }
    if regions:
        inputs["regions"] = {"kind": "regions", "column": "regions", "width": 5, "classes": classes}
    return Features.parse({"inputs": inputs, "targets": TARGETS if targets is None else targets}, "features")


def objectives(*configs: dict[str, Any], known: Features | None = None) -> Joint:
    parsed = [TypeAdapter(JointObjectiveConfig).validate_python(config) for config in configs]
    torch.manual_seed(1)
    return build_objectives(parsed, known or features(), {"text": tokenizer()})


def model(joint: Joint, known: Features | None = None, **changes: Any) -> Multimodal:
    """With the heads that the objectives ask for; nothing is dropped, so that a step repeats."""
    known = known or features()
    encoders: dict[str, Any] = {
        "image": tiny.vit_config(activation="gelu").to_dict(),
        "text": tiny.bert_config(vocab_size=300).to_dict(),
    }
    if "regions" in known.inputs:
        encoders["regions"] = REGIONS
    config = MultimodalConfig.parse(
        {"encoders": encoders, "fusion": EARLY, "heads": {"targets": HEADS}} | changes, "model"
    )
    config = config.model_copy(update={"pretraining": dict(config.pretraining) | joint.heads(config, known)})
    torch.manual_seed(0)
    return config.build()


def pixels(rows: int = ROWS) -> Tensor:
    return torch.randn(rows, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, generator=torch.Generator().manual_seed(2))


def text(rows: int = ROWS) -> Text:
    return tokenizer()([tiny.CAPTIONS[row % 6] for row in range(rows)], tiny.preprocess().text)


def regions(rows: int = ROWS, count: int = 4, classes: int = 0) -> Regions:
    draw = torch.Generator().manual_seed(3)
    mask = torch.ones(rows, count, dtype=torch.bool)
    mask[1, 2:] = False
    boxes = torch.tensor([0.1, 0.2, 0.6, 0.9]).expand(rows, count, 4)
    said = torch.rand(rows, count, classes, generator=draw).softmax(-1) if classes else None
    return Regions(torch.randn(rows, count, 5, generator=draw), boxes, mask, said)


def batch(**changes: Any) -> Batch:
    """All inputs present and all labels known."""
    rows = ROWS
    everywhere = torch.ones(rows, dtype=torch.bool)
    inputs: dict[str, Any] = {"image": pixels(), "text": text()} | changes.pop("inputs", {})
    given: dict[str, Any] = {
        "inputs": inputs,
        "present": dict.fromkeys(inputs, everywhere),
        "targets": {"sick": torch.tensor([0.0, 1, 0, 1, 1, 0]), "kind": torch.tensor([0, 1, 2, 0, 1, 2])},
        "known": {"sick": everywhere, "kind": everywhere},
        "rows": torch.arange(rows),
    }
    return Batch(**given | changes)


def step(model: Multimodal, given: Batch | None = None, seed: int = 5) -> JointStep:
    return JointStep(model, batch() if given is None else given, torch.Generator().manual_seed(seed))
