"""A model as graphs: modules with named flat tensors in and out, whose batch size and lengths are free.

`graphs_of` gives what every format is written from and every engine's backend runs:

    Clip        "image"   pixels -> vectors
                "text"    ids, mask -> vectors
    Multimodal  "rows"    each input's parts and `present.NAME` -> `answer.NAME` and `logits.NAME` of each target, state

Shapes: B rows; L tokens, steps or regions of an input; S pixels of a side; D width of vectors; W of the joint state; C
outputs of a head.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymodal.encoders import (
    BertConfig,
    EncoderConfig,
    LstmConfig,
    SeriesConfig,
    TextTransformerConfig,
    TransformersConfig,
    WhisperConfig,
    for_use,
    pooled,
)
from polymodal.encoders.pretrained import max_length, shortest
from polymodal.errors import ConfigError
from polymodal.features import (
    FIRST,
    AudioInput,
    Features,
    ImageInput,
    InputConfig,
    RecordInput,
    RegionsInput,
    SeriesInput,
    Target,
    TextInput,
)
from polymodal.layers.named import module_name
from polymodal.layers.patches import Patches
from polymodal.models.clip import Clip
from polymodal.models.ensemble import Ensemble
from polymodal.models.multimodal import Multimodal
from polymodal.preprocess import ImagePreprocess, Preprocess
from polymodal.types import Input, Record, Regions, Series, Text, Tokens

DType = Literal["uint8", "bool", "int64", "float32"]
Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Axis:
    """A dimension whose size is free."""

    name: str
    most: int | None = None  # the largest size that the model takes; None: any
    tried: int = 5  # the size with which the graph is traced
    least: int = 1  # shorter ones are to be padded, masked


BATCH = Axis("batch", tried=3)


@dataclass(frozen=True)
class Port:
    """A tensor that goes into a graph or comes out of it."""

    name: str
    dtype: DType
    shape: tuple[int | Axis, ...]
    below: int = 256  # whole numbers are from 0 to this, without it

    def drawn(self, generator: torch.Generator, sizes: Mapping[str, int] | None = None) -> Tensor:
        """Random values that the port takes; masks are True.

        Args:
            sizes: of axes, by name; those that are not named have the size with which the graph is traced.
        """
        given = sizes or {}
        shape = [given.get(one.name, one.tried) if isinstance(one, Axis) else one for one in self.shape]
        match self.dtype:
            case "float32":
                # Also boxes, which are shares of a picture with corners in order.
                return torch.rand(shape, generator=generator).sort(-1).values
            case "bool":
                return torch.ones(shape, dtype=torch.bool)
            case _:
                kind = torch.uint8 if self.dtype == "uint8" else torch.int64
                return torch.randint(self.below, shape, generator=generator, dtype=kind)


class Graph(nn.Module):
    """A module of flat tensors: `forward(*inputs)` in the order of `inputs`, a tuple in the order of `outputs`."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def drawn(self, seed: int = 0, sizes: Mapping[str, int] | None = None) -> tuple[Tensor, ...]:
        """Inputs of random values; see `Port.drawn`."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(port.drawn(generator, sizes) for port in self.inputs)

    @torch.inference_mode()
    def run(self, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        """What the model itself says, by the output's name."""
        said = self(*(torch.from_numpy(np.ascontiguousarray(arrays[port.name])) for port in self.inputs))
        return {port.name: one.numpy() for port, one in zip(self.outputs, said, strict=True)}


class ImageGraph(Graph):
    def __init__(self, model: Clip, preprocess: ImagePreprocess) -> None:
        super().__init__()
        self.tower = FromBytes(model.image_encoder, preprocess)
        self.projection = model.image_projection
        self.inputs = (Port("pixels", "uint8", (BATCH, 3, preprocess.size, preprocess.size)),)
        self.outputs = (Port("vectors", "float32", (BATCH, model.config.shared_width)),)

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        """Unit vectors (B, D) of pixels (B, 3, S, S) uint8."""
        return (normalize(self.projection(self.tower.pooled(pixels)), dim=-1),)


class TextGraph(Graph):
    def __init__(self, model: Clip) -> None:
        super().__init__()
        self.tower, self.projection = model.text_encoder, model.text_projection
        ids, mask = _text_ports("", model.config.text, self.tower)
        self.inputs = (replace(ids, name="ids"), replace(mask, name="mask"))
        self.outputs = (Port("vectors", "float32", (BATCH, model.config.shared_width)),)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor]:
        """Unit vectors (B, D) of token ids (B, L) and where they are real."""
        return (normalize(self.projection(pooled(self.tower, Text(ids, mask))), dim=-1),)


class RowsGraph(Graph):
    """Rows of a table in, an answer for every target out: probabilities of classes, or values in their own units."""

    def __init__(self, model: Multimodal | Ensemble, features: Features) -> None:
        super().__init__()
        width = model.width if isinstance(model, Ensemble) else model.fusion.width
        self.model, self.features = _copy(model), features
        ports: list[Port] = []
        self.parts: dict[str, list[str]] = {}  # input -> names of its ports
        for name, config in features.inputs.items():
            readers = _readers(self.model, name)
            for reader, own in readers:
                reader.encoders[module_name(own)] = for_use(reader.encoders[own])
            found = _ports(name, config, *_shortest(readers))
            self.parts[name] = [port.name for port in found]
            ports += [*found, Port(f"present.{name}", "bool", (BATCH,))]
        self.inputs = tuple(ports)
        self.outputs = (*self._answers(), Port("state", "float32", (BATCH, width)))

    def _answers(self) -> list[Port]:
        ports = []
        for name, target in self.features.targets.items():
            places = (_steps(target.text),) if target.task == "tokens" else ()
            classes = () if target.task == "regression" else (len(target.classes),)
            ports.append(Port(f"answer.{name}", "float32", (BATCH, *places, *classes)))
            ports.append(Port(f"logits.{name}", "float32", (BATCH, *places, target.outputs)))
        return ports

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Of each target its answer (B,) or (B, C), and logits or scaled values (B, C); last the joint state (B, W)."""
        inputs, present = self.together(tensors)
        out = self.model(self.features.normalize(inputs), present)
        said: list[Tensor] = []
        for name, target in self.features.targets.items():
            said += [answer(target, out.predictions[name]), out.predictions[name]]
        return (*said, out.fused.pooled)

    def together(self, tensors: Sequence[Tensor]) -> tuple[dict[str, Input], dict[str, Tensor]]:
        """What the model takes, before pictures are normalized: its inputs, and which of them a row has."""
        given = dict(zip((port.name for port in self.inputs), tensors, strict=True))
        present = {name: given[f"present.{name}"] for name in self.parts}
        inputs = {
            name: _together(name, config, {part: given[part] for part in self.parts[name]}, present[name])
            for name, config in self.features.inputs.items()
        }
        return inputs, present


def graphs_of(model: Clip | Multimodal | Ensemble, preprocess: Preprocess | Features) -> dict[str, Graph]:
    """The model's graphs by name, in eval mode; they share its weights.

    Args:
        preprocess: of a Clip its Preprocess, of a Multimodal its Features, as an artifact has them.

    Raises:
        ConfigError: the two are not of one kind, or two tensors would have the same name.
    """
    if isinstance(model, Clip) and isinstance(preprocess, Preprocess):
        graphs: dict[str, Graph] = {"image": ImageGraph(model, preprocess.image), "text": TextGraph(model)}
    elif isinstance(model, Multimodal | Ensemble) and isinstance(preprocess, Features):
        graphs = {"rows": RowsGraph(model, preprocess)}
    else:
        raise ConfigError(
            f"graphs: wanted a Clip with Preprocess or a Multimodal with Features, got a {type(model).__name__} with "
            f"{type(preprocess).__name__}"
        )
    for graph in graphs.values():
        names = [port.name for port in graph.inputs]
        if same := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"graphs: two tensors would be called {', '.join(sorted(same))}; rename an input")
    return {name: graph.eval() for name, graph in graphs.items()}


def _readers(model: Multimodal | Ensemble, name: str) -> list[tuple[Multimodal, str]]:
    """The models that read an input, and what they call it."""
    return model.readers(name) if isinstance(model, Ensemble) else [(model, name)]


def _shortest(readers: Sequence[tuple[Multimodal, str]]) -> tuple[EncoderConfig, nn.Module]:
    """Of an input's encoders the one with the lowest limit on its length."""
    model, own = min(readers, key=lambda one: getattr(one[0].config.encoders[one[1]], "max_length", None) or math.inf)
    return model.config.encoders[own], model.encoders[own]


def arrays_of(inputs: Mapping[str, Input], present: Mapping[str, Tensor]) -> dict[str, NDArray[np.generic]]:
    """What a batch is to a "rows" graph, as `FeatureRows.batch` gives it; it may hold more than the graph reads."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, given in inputs.items():
        arrays[f"present.{name}"] = present[name].numpy()
        if isinstance(given, Tensor):
            arrays[name] = given.numpy()
        else:
            parts = given._asdict().items()
            arrays |= {f"{name}.{part}": value.numpy() for part, value in parts if value is not None}
    return arrays


def answer(target: Target, outputs: Tensor) -> Tensor:
    """`metrics.supervised.probabilities` of a head's outputs (B, C) in torch; of a regression its values (B,)."""
    if target.task == "regression":
        return outputs[:, 0] * target.std + target.mean
    logits = outputs / target.temperature
    match target.task:
        case "binary":
            yes = logits.sigmoid()
            return torch.cat([1 - yes, yes], 1)
        case "multilabel" | "soft":
            return logits.sigmoid()
        case "ordinal":  # thresholds that cross are brought into order
            above = logits.sigmoid()
            falling = torch.stack([above[:, : place + 1].amin(1) for place in range(above.shape[1])], 1)
            edge = torch.ones_like(falling[:, :1])
            return torch.cat([edge, falling], 1) - torch.cat([falling, torch.zeros_like(edge)], 1)
        case _:
            return logits.softmax(-1)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


class FromBytes(nn.Module):
    """An image tower that takes pixels 0 to 255.

    (x / 255 - mean) / std is one linear map of each channel. Before a convolution without padding it is part of the
    convolution's weights; where a picture's border is padded with zeros after it, it stays a step of its own.
    """

    def __init__(self, tower: nn.Module, preprocess: ImagePreprocess) -> None:
        super().__init__()
        self.tower, self.preprocess = for_use(tower), preprocess
        self.folded = False
        firsts = [module for module in tower.modules() if isinstance(module, Patches)]
        if len(firsts) == 1 and type(firsts[0].projection) is nn.Conv2d:
            self.tower, self.folded = _copy(tower), True
            for patches in self.tower.modules():
                if isinstance(patches, Patches):
                    patches.projection = normalizing(patches.projection, preprocess)

    def forward(self, pixels: Tensor) -> Tokens:
        """Tokens of pixels (B, 3, S, S) uint8."""
        tokens: Tokens = self.tower(self._floats(pixels))
        return tokens

    def pooled(self, pixels: Tensor) -> Tensor:
        """(B, D), of a tower in eval mode; what only the other tokens need is left out."""
        return pooled(self.tower, self._floats(pixels))

    def _floats(self, pixels: Tensor) -> Tensor:
        return pixels.float() if self.folded else self.preprocess.normalize(pixels)


def normalizing(convolution: nn.Conv2d, preprocess: ImagePreprocess) -> nn.Conv2d:
    """A convolution (without padding) of bytes that says what the given one says of normalized pixels."""
    mean, std = (torch.tensor(one, dtype=torch.float64)[:, None, None] for one in (preprocess.mean, preprocess.std))
    weight = convolution.weight.detach().double()
    size = convolution.kernel_size
    folded = nn.Conv2d(3, convolution.out_channels, (size[0], size[1]), convolution.stride[0])
    bias = -(weight * mean / std).sum((1, 2, 3))
    if convolution.bias is not None:
        bias = bias + convolution.bias.detach().double()
    folded.weight = nn.Parameter((weight / (255 * std)).float(), requires_grad=False)
    folded.bias = nn.Parameter(bias.float(), requires_grad=False)
    return folded


def _copy(module: nn.Module) -> Any:
    """Modules of their own on the same weights."""
    return deepcopy(module, {id(one): one for one in (*module.parameters(), *module.buffers())})


# ---------------------------------------------------------------------------------------------------------------------
# Ports of inputs


def _ports(name: str, config: InputConfig, encoder: EncoderConfig, tower: Any) -> list[Port]:
    """An input's tensors; parts of width 0, as the numbers of a table without any, are left out."""
    match config:
        case ImageInput():
            size = config.preprocess.size
            return [Port(name, "uint8", (BATCH, 3, size, size))]
        case TextInput():
            return _text_ports(name, encoder, tower)
        case RecordInput():
            numbers, codes = len(config.numbers), [len(column.values) + FIRST for column in config.categories]
            shape, ports = (BATCH, numbers), []
            if numbers:
                ports = [Port(f"{name}.numbers", "float32", shape), Port(f"{name}.missing", "bool", shape)]
            if codes:
                ports.append(Port(f"{name}.categories", "int64", (BATCH, len(codes)), below=min(codes)))
            return ports
        case SeriesInput():
            # Of a single token torch makes a graph of single tokens.
            stride = encoder.stride if isinstance(encoder, SeriesConfig) else 1
            steps = _steps(name, config.max_length, 2 * stride + 3, stride + 1 if stride > 1 else 1)
            return [
                Port(f"{name}.values", "float32", (BATCH, steps, len(config.means))),
                Port(f"{name}.mask", "bool", (BATCH, steps)),
            ]
        case AudioInput():
            frames = _sound_steps(name, encoder, tower)
            return [
                Port(f"{name}.values", "float32", (BATCH, frames, config.preprocess.channels)),
                Port(f"{name}.mask", "bool", (BATCH, frames)),
            ]
        case RegionsInput():
            steps = _steps(name)
            return [
                Port(f"{name}.features", "float32", (BATCH, steps, config.width)),
                Port(f"{name}.boxes", "float32", (BATCH, steps, 4)),
                Port(f"{name}.mask", "bool", (BATCH, steps)),
            ]


def _steps(name: str, most: int | None = None, tried: int = 5, least: int = 1) -> Axis:
    return Axis(f"{name}.length" if name else "length", most, tried if most is None else min(tried, most), least)


def _text_ports(name: str, encoder: EncoderConfig, tower: Any) -> list[Port]:
    if isinstance(encoder, TransformersConfig):
        most, vocabulary = max_length(tower.model), int(tower.model.config.vocab_size)
    else:
        assert isinstance(encoder, TextTransformerConfig | BertConfig | LstmConfig)
        most = None if isinstance(encoder, LstmConfig) else encoder.max_length
        vocabulary = encoder.vocab_size
    shape = (BATCH, _steps(name, most))
    return [Port(f"{name}.ids", "int64", shape, below=vocabulary), Port(f"{name}.mask", "bool", shape)]


def _sound_steps(name: str, encoder: EncoderConfig, tower: Any) -> int | Axis:
    if isinstance(encoder, WhisperConfig):
        return _steps(name, 2 * encoder.max_length, 7, 3)
    assert isinstance(encoder, TransformersConfig)
    settings = tower.model.config
    if settings.model_type == "whisper":  # reads sounds of one length only
        return 2 * int(settings.max_source_positions)
    least = shortest(settings.conv_kernel, settings.conv_stride)
    return _steps(name, None, 3 * least, least)


def _together(name: str, config: InputConfig, parts: Mapping[str, Tensor], present: Tensor) -> Input:
    """An input of its tensors."""
    if isinstance(config, ImageInput):
        return parts[name]
    values = {part.removeprefix(f"{name}."): value for part, value in parts.items()}
    match config:
        case TextInput():
            return Text(**values)
        case RegionsInput():
            return Regions(**values)
        case RecordInput():
            none = {
                "numbers": torch.zeros(present.shape[0], 0),
                "missing": torch.zeros(present.shape[0], 0, dtype=torch.bool),
                "categories": torch.zeros(present.shape[0], 0, dtype=torch.int64),
            }
            return Record(**(none | values))
        case _:
            return Series(**values)
