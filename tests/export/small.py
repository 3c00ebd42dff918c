"""A small model around every encoder and every fusion, and the features that belong to it."""

from typing import Any

from polymodal.encoders import RecordConfig
from polymodal.export.graphs import Axis, Graph
from polymodal.features import (
    AudioInput,
    CategoryColumn,
    Features,
    ImageInput,
    InputConfig,
    NumberColumn,
    RecordInput,
    RegionsInput,
    SeriesInput,
    Target,
    TextInput,
)
from polymodal.models.clip import Clip, ClipConfig
from polymodal.models.heads import HeadsConfig, LinearHead, MlpHead, TokenLinearHead
from polymodal.models.multimodal import Multimodal, MultimodalConfig
from polymodal.preprocess import AudioPreprocess, ImagePreprocess, Preprocess
from tests import tiny
from tests.contracts import test_encoders as encoders
from tests.contracts import test_models as towers
from tests.fusion import small as fusions

SIZE = 32
LATE = {"kind": "late", "width": 8}
TEXT = tiny.bert_config(width=8)
IMAGE = tiny.vit_config(image_size=SIZE, patch_size=16, width=8)
GRID = tiny.vit_config(image_size=SIZE, patch_size=16, width=8, class_token=False, pool="mean")
RECORD = RecordConfig.parse(encoders.RECORD | {"width": 8, "heads": 2, "layers": 1, "dropout": 0.0}, "")
TARGETS = {
    "kind": Target(columns=("kind",), task="multiclass", classes=("a", "b", "c"), temperature=1.5),
    "price.usd": Target(columns=("price.usd",), task="regression", mean=100.0, std=20.0),
    "stars": Target(columns=("stars",), task="ordinal", classes=("1", "2", "3", "4")),
    "有无": Target(columns=("有无",), task="binary", classes=("无", "有")),
    "tags": Target(columns=("tags",), task="multilabel", classes=("x", "y")),
}


def feature_of(name: str, config: Any) -> InputConfig:
    match config.reads:
        case "image":
            return ImageInput(column=name, preprocess=ImagePreprocess(size=getattr(config, "image_size", SIZE)))
        case "text":
            return TextInput(columns=(name,))
        case "record":
            values = [tuple(map(str, range(codes - 2))) for codes in config.categories]
            return RecordInput(
                numbers=tuple(NumberColumn(name=f"n{nth}", mean=1.0, std=2.0) for nth in range(config.numbers)),
                categories=tuple(CategoryColumn(name=f"c{nth}", values=one) for nth, one in enumerate(values)),
            )
        case "series":
            return SeriesInput(column=name, means=(0.0,) * 4, stds=(1.0,) * 4, max_length=config.max_length)
        case "regions":
            return RegionsInput(column=name, width=config.feature_width)
    samples = config.kind == "transformers"
    return AudioInput(column=name, preprocess=AudioPreprocess(mels=4, features="samples" if samples else "log_mel"))


def rows(encoder_configs: dict[str, Any], fusion: Any = LATE, heads: Any = None) -> tuple[Multimodal, Features]:
    """A model of these encoders with a head for every task of a row, every weight moved."""
    targets = heads or {
        name: (MlpHead if target.task == "binary" else LinearHead)(outputs=target.outputs)
        for name, target in TARGETS.items()
    }
    config = MultimodalConfig(encoders=encoder_configs, fusion=fusion, heads=HeadsConfig(targets=targets))
    model = encoders.built(config)
    chosen = TARGETS if heads is None else {"words": Target(columns=("w",), task="tokens", classes=("O", "B"))}
    features = Features(inputs={name: feature_of(name, one) for name, one in encoder_configs.items()}, targets=chosen)
    return model, features


def words() -> tuple[Multimodal, Features]:
    """A tag for each token of a text, beside a picture."""
    head = TokenLinearHead(input="text", outputs=2)
    return rows({"text": TEXT, "image": IMAGE}, fusions.CONFIGS["early"], {"words": head})


def with_fusion(name: str) -> tuple[Multimodal, Features]:
    """A model of image, text and record, or of those of them that the fusion can join."""
    config = fusions.CONFIGS[name]
    if name.startswith("spatial"):
        return rows({"image": GRID, "text": IMAGE, "record": GRID}, config.model_copy(update={"leading": {"text": 1}}))
    there = {"image": IMAGE, "text": TEXT, "record": RECORD}
    return rows({one: there[one] for one in there if one != "record" or config.kind not in fusions.TWO_INPUTS}, config)


def clip(config: ClipConfig) -> tuple[Clip, Preprocess]:
    return towers.built(config), Preprocess(image=ImagePreprocess(size=config.image.image_size))


def inputs(graph: Graph, sizes: dict[str, int], seed: int = 5) -> dict[str, Any]:
    """Drawn inputs in which rows are of unequal length and the last row lacks every input but the first."""
    found = {port.name: one.clone() for port, one in zip(graph.inputs, graph.drawn(seed, sizes), strict=True)}
    first = next(iter(found)).split(".")[0]
    for name, values in found.items():
        if name.endswith("mask") and values.shape[1] > 2:
            values[0, 2:] = False
        if name.startswith("present.") and name != f"present.{first}" and len(values) > 1:
            values[-1] = False
        if name.endswith("missing"):
            values[0] = False
    return {name: values.numpy() for name, values in found.items()}


def sizes(graph: Graph) -> list[dict[str, int]]:
    """Sizes that differ from those with which the graph is traced: one row, one step, many."""
    axes = {axis for port in graph.inputs for axis in port.shape if isinstance(axis, Axis)} - {"batch"}
    lengths = [axis for axis in axes if axis.name != "batch"]
    longest = {axis.name: min(axis.tried + 4, axis.most or 99) for axis in lengths}
    shortest = {axis.name: axis.least for axis in lengths}
    return [{"batch": 1} | shortest, {"batch": 4} | longest]


__all__ = ["clip", "encoders", "fusions", "inputs", "rows", "sizes", "tiny", "towers", "with_fusion", "words"]
