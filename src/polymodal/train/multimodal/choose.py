"""What a recipe leaves open, chosen by the rows and the machine; every choice comes with its reason."""

import math
import os
from collections.abc import Mapping
from typing import NamedTuple

import torch

from polymodal.encoders import (
    EncoderConfig,
    RecordConfig,
    RegionsConfig,
    ResnetConfig,
    SeriesConfig,
    TextTransformerConfig,
    VitConfig,
    WhisperConfig,
)
from polymodal.features import (
    FIRST,
    AudioInput,
    Features,
    ImageInput,
    InputConfig,
    RecordInput,
    RegionsInput,
    SeriesInput,
    TextInput,
)
from polymodal.fusion import FusionConfig
from polymodal.fusion.early import EarlyConfig
from polymodal.fusion.late import LateConfig


class Choice(NamedTuple):
    what: str  # "encoders.record", "fusion", "trainer.epochs"
    value: str
    reason: str


class Sizes(NamedTuple):
    width: int
    layers: int
    reason: str


def sizes(rows: int) -> Sizes:
    """Width and depth that the rows can teach and the machine can train."""
    gpu = torch.cuda.is_available()
    machine = "a GPU" if gpu else f"{os.cpu_count()} processors without a GPU"
    if rows < 2_000:
        return Sizes(64, 2, f"{rows:,} training rows: a small model, larger ones learn them by heart")
    if rows < 50_000 or not gpu:
        return Sizes(128, 3, f"{rows:,} training rows on {machine}")
    return Sizes(256, 4, f"{rows:,} training rows on {machine}")


def encoder(config: InputConfig, vocab_size: int, rows: int) -> tuple[EncoderConfig, str]:
    """An encoder for one input, and why this one."""
    width, layers, why = sizes(rows)
    heads = width // 32
    match config:
        case RecordInput(numbers=numbers, categories=categories):
            codes = tuple(len(column.values) + FIRST for column in categories)
            told = f"each column a token; {why}"
            return RecordConfig(numbers=len(numbers), categories=codes, width=width, layers=layers, heads=heads), told
        case TextInput(preprocess=preprocess):
            size = {"vocab_size": vocab_size, "max_length": preprocess.max_length, "width": width, "heads": heads}
            told = f"texts of up to {preprocess.max_length} tokens; {why}"
            style = {"layers": layers, "activation": "gelu", "causal": False, "pool": "mean"}
            return TextTransformerConfig.parse(size | style, "text"), told
        case ImageInput(preprocess=preprocess) if rows < 20_000:
            told = f"convolutions learn from fewer pictures than patches do; {why}"
            return ResnetConfig(image_size=preprocess.size, block="basic", layers=(1, 1, 1, 1), stem=width // 4), told
        case ImageInput(preprocess=preprocess):
            vit = VitConfig(
                image_size=preprocess.size,
                patch_size=max(1, preprocess.size // 8),
                width=width,
                layers=layers,
                heads=heads,
                activation="gelu",
            )
            return vit, f"pictures in 8 x 8 patches; {why}"
        case SeriesInput(means=means, max_length=longest):
            stride = max(1, longest // 128)
            series = SeriesConfig(
                channels=len(means),
                max_length=longest,
                kernel=2 * stride + 1,
                stride=stride,
                width=width,
                layers=layers,
                heads=heads,
            )
            return series, f"{len(means)} channels, a token every {stride} steps; {why}"
        case AudioInput(preprocess=preprocess):
            longest = math.ceil(preprocess.seconds * 50)  # a token every 20 ms: Whisper's hop, halved by a stride
            whisper = WhisperConfig(
                mels=preprocess.mels, max_length=longest, width=width, layers=layers, heads=heads, dropout=0.1
            )
            return whisper, f"log-mel frames, a token every 20 ms; {why}"
        case RegionsInput(width=feature_width):
            regions = RegionsConfig(feature_width=feature_width, width=width, layers=layers, heads=heads, eps=1e-5)
            return regions, f"features of {feature_width} numbers and their boxes; {why}"


def fusion(features: Features, rows: int) -> tuple[FusionConfig, str]:
    """A way to join the inputs, and why this one."""
    width, layers, _ = sizes(rows)
    if len(features.inputs) == 1:
        return LateConfig(weights="mean", width=width), "one input: nothing to join"
    if rows < 1_000:
        return LateConfig(weights="concat", width=width), f"{rows:,} training rows: few weights between the inputs"
    early = EarlyConfig(width=width, layers=min(layers, 2), heads=width // 32, dropout=0.1, eps=1e-5, pool="mean")
    return early, f"{rows:,} training rows: every token may look at every other"


def image_size(rows: int) -> int:
    """Pixels of a picture's sides: what a processor can train in minutes, more where a GPU does."""
    return 128 if torch.cuda.is_available() and rows >= 2_000 else 64


def batch_size(rows: int) -> int:
    """16 for hundreds of rows, 256 for ten thousand: some 20 steps an epoch at the least."""
    return max(16, min(256, 1 << max(0, round(math.log2(max(rows, 1) / 30)))))


def epochs(rows: int) -> int:
    """30 for hundreds of rows, 12 for thousands, 3 for half a million."""
    return max(3, min(60, int(200 / math.cbrt(max(rows, 1)))))


def summary(configs: Mapping[str, EncoderConfig]) -> dict[str, str]:
    """Each encoder in a few words."""
    return {name: _told(config) for name, config in configs.items()}


def _told(config: EncoderConfig) -> str:
    layers = getattr(config, "layers", None)
    depth = f", {layers} layers" if isinstance(layers, int) else ""
    return f"{config.kind}, {config.width} wide{depth}"
