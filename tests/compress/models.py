"""Small models of every kind that has something to prune, each with a call that gives what it says of fixed inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polymodal.encoders import (
    ClipResnetConfig,
    RecordConfig,
    RecordMlpConfig,
    RegionsConfig,
    SeriesConfig,
    WhisperConfig,
)
from polymodal.types import Record, Regions, Series, Text
from tests import tiny
from tests.fusion import small


class Case(NamedTuple):
    model: nn.Module
    call: Callable[[nn.Module], Tensor]  # everything that it says, in one row


def moved(model: nn.Module) -> nn.Module:
    """Every weight off its start, so that no zero hides what stands behind it."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.2)
    return model.eval()


def encoder(config: Any, given: Any) -> Case:
    torch.manual_seed(1)

    def call(model: nn.Module) -> Tensor:
        said = model(given)
        return torch.cat([said.sequence.flatten(), said.pooled.flatten()])

    return Case(moved(config.build()), call)


def fusion(name: str) -> Case:
    config = small.CONFIGS[name]
    model, missing = small.built(config)
    given = small.tokens(config)

    def call(changed: nn.Module) -> Tensor:
        fused = small.join((changed, missing), given)
        states = [fused.tokens[key].sequence.flatten() for key in fused.tokens]
        return torch.cat([fused.pooled.flatten(), *states])

    return Case(model, call)


def clip(**changes: Any) -> Case:
    pixels, text = torch.rand(3, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE), tiny.text(3)

    def call(model: nn.Module) -> Tensor:
        out = model(pixels, text)
        return torch.cat([out.image.flatten(), out.text.flatten()])

    return Case(moved(tiny.clip(**changes)), call)


def cases() -> dict[str, Callable[[], Case]]:
    draw = torch.Generator().manual_seed(2)
    pixels = torch.rand(2, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE, generator=draw)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    steps = torch.randn(2, 6, 5, generator=draw)
    boxes = torch.tensor([0.1, 0.2, 0.5, 0.6]).expand(2, 6, 4)
    codes = torch.tensor([[2, 3], [1, 0]])
    record = Record(torch.randn(2, 3, generator=draw), torch.zeros(2, 3, dtype=torch.bool), codes)
    columns = {"numbers": 3, "categories": (4, 5), "width": 8}
    blocks = {"width": 8, "layers": 2, "heads": 2}
    text = Text(torch.randint(tiny.VOCAB_SIZE, (2, 6), generator=draw), mask)
    made: dict[str, Callable[[], Case]] = {
        "vit": lambda: encoder(tiny.vit_config(), pixels),
        "vit, map": lambda: encoder(tiny.vit_config(pool="map", heads=4), pixels),
        "clip_resnet": lambda: encoder(
            ClipResnetConfig(image_size=64, layers=(1, 1, 1, 1), stem=4, width=16), torch.rand(2, 3, 64, 64)
        ),
        "text_transformer": lambda: encoder(tiny.text_config(layers=3), text),
        "bert": lambda: encoder(tiny.bert_config(layers=3), text),
        "whisper": lambda: encoder(WhisperConfig(mels=5, max_length=8, **blocks), Series(steps, mask)),
        "series": lambda: encoder(SeriesConfig(channels=5, max_length=8, **blocks), Series(steps, mask)),
        "record": lambda: encoder(RecordConfig(**columns, layers=2, heads=2), record),
        "record_mlp": lambda: encoder(RecordMlpConfig(**columns, layers=3), record),
        "regions": lambda: encoder(RegionsConfig(feature_width=5, **blocks), Regions(steps, boxes, mask)),
        "clip": clip,
        "clip, mlp": lambda: clip(image_projection="mlp"),
    }
    return made | {f"fusion {name}": lambda name=name: fusion(name) for name in small.SMALL}
