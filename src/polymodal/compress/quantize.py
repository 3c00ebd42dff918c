"""Steps that put weights, and what flows between them, into fewer bits.

- bf16: every matrix, embedding and convolution is stored in 16 bits.
- int8: linear layers multiply integers (`layers/compressed.Int8Linear`); the other weights are stored in 8 bits and
  widened when they are read. `activations=static` fixes the range of each layer's input by calibration rows;
  `activations=none` stores linear layers in 8 bits too, and they multiply floats.
- int4: matrices are stored in 4 bits with a scale for each `group` weights, and widened when they are read.

What hurts most stays as it is where a bound on the loss asks for it: see `compress/sensitive.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.artifact import Model
from polymodal.compress.calibration import batches, run
from polymodal.compress.sensitive import Unit, within_bound
from polymodal.compress.smooth import smooth
from polymodal.compress.step import Step, Work
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.layers.compressed import Int8Linear
from polymodal.models.forms import Bfloat16Storage, Int8Form, IntegerStorage, Storage

SMALLEST = 256  # weights that are fewer stay as they are: there is nothing to win
MOST_VALUES = 20_000  # of a layer's input that a batch adds to its percentiles


class Bfloat16(Step):
    kind: Literal["bf16"] = "bf16"
    quantizes: ClassVar[bool] = True

    def run(self, work: Work) -> Work:
        """
        Raises:
            ArtifactError: everything is stored in fewer bits already.
        """
        model = work.copy()
        names = [name for name in storable(model) if name not in model.forms.stored]
        if not names:
            raise ArtifactError(f'"{work.artifact.folder}": every weight is stored in 16 bits or fewer already')
        store(model, dict.fromkeys(names, Bfloat16Storage()))
        return replace(work, model=model)


class Integers(Step):
    """What the steps that leave integers have in common."""

    quantizes: ClassVar[bool] = True
    keep: tuple[str, ...] = ()  # shell patterns of dotted names that stay in float: [*.head, text_projection]
    rows: int = Field(256, ge=1)  # of the table, to calibrate by and to tell which layers hurt

    def chosen(self, model: Model) -> list[str]:
        """Names of the weights to quantize.

        Raises:
            ConfigError: a pattern of `keep` fits nothing.
        """
        names = storable(model)
        for pattern in self.keep:
            if not any(_fits(name, pattern) for name in names):
                raise ConfigError(
                    f'step "{self.kind}": keep "{pattern}" fits no weight; there are {len(names)}, first: '
                    f"{', '.join(names[:3]) or 'none'}"
                )
        return [name for name in names if not any(_fits(name, pattern) for pattern in self.keep)]


class Int8(Integers):
    kind: Literal["int8"] = "int8"
    activations: Literal["dynamic", "static", "none"] = "dynamic"
    range: Literal["percentile", "minmax"] = "percentile"  # of static activations
    percentile: float = Field(99.99, gt=50, le=100)  # of values within the range, each side
    smooth: float | None = Field(None, ge=0, le=1)  # SmoothQuant's alpha; None: not smoothed
    group: int | None = Field(None, ge=8)  # activations=none: so many weights share a scale; None: those of a row

    def model_post_init(self, context: object) -> None:
        if self.activations != "none" and self.group is not None:
            raise ValueError("group is for activations=none; integer products have one scale for each output")
        if self.activations == "none" and self.smooth is not None:
            raise ValueError("smooth is for activations=dynamic or static: there is nothing to smooth without them")

    def run(self, work: Work) -> Work:
        """
        Raises:
            ArtifactError: the model is quantized already.
            ConfigError: nothing can be smoothed.
            DataError: the calibration rows are all alike, or give numbers that are not finite.
        """
        refuse_quantized(work)
        model = work.copy()
        if self.smooth is not None and not smooth(model, self.smooth, passes(work, model, self.rows)):
            raise ConfigError(
                'step "int8": smooth: no LayerNorm of this model feeds a linear layer alone (its blocks are '
                "post-norm); leave smooth out"
            )
        names = self.chosen(model)
        linears = [] if self.activations == "none" else linears_of(model, names)
        ranges: Mapping[str, tuple[float, float]] = {}
        notes = []
        if self.activations == "static":
            within = self.percentile if self.range == "percentile" else 100
            ranges = input_ranges(work, model, linears, self.rows, within)
            if lacking := [name for name in linears if name not in ranges]:
                notes.append(f"int8: no calibration row reaches {', '.join(lacking)}: stored in 8 bits, not multiplied")
                linears = [name for name in linears if name in ranges]
        units = [Unit(name, partial(multiply_integers, name, ranges.get(name))) for name in linears]
        how = IntegerStorage(bits=8, group=self.group)
        multiplied = {f"{name}.weight" for name in linears}
        units += [Unit(name, partial(store_integers, name, how)) for name in names if name not in multiplied]
        model, spared = within_bound(work, model, units, self.rows)
        return replace(work, model=model, notes=(*work.notes, *notes, *spared))


class Int4(Integers):
    kind: Literal["int4"] = "int4"
    group: int = Field(32, ge=8)  # so many weights of a row share a scale

    def run(self, work: Work) -> Work:
        """
        Raises:
            ArtifactError: the model is quantized already.
        """
        refuse_quantized(work)
        model = work.copy()
        weights = model.state_dict()
        units = []
        for name in self.chosen(model):
            # Convolutions have few weights, and suffer most.
            matrix = weights[name].ndim == 2
            how = IntegerStorage(bits=4, group=self.group) if matrix else IntegerStorage(bits=8)
            units.append(Unit(name, partial(store_integers, name, how)))
        model, spared = within_bound(work, model, units, self.rows)
        return replace(work, model=model, notes=(*work.notes, *spared))


# ---------------------------------------------------------------------------------------------------------------------
# What there is to quantize


def storable(model: Model) -> list[str]:
    """Names of the weights that are worth it and not in integers yet."""
    return [
        name
        for name, weight in model.state_dict().items()
        if weight.is_floating_point()
        and weight.ndim >= 2
        and weight.numel() >= SMALLEST
        and not isinstance(model.forms.stored.get(name), IntegerStorage)
    ]


def linears_of(model: Model, weights: Sequence[str]) -> list[str]:
    """Of names of weights those that are a linear layer's, as the layer's name."""
    wanted = set(weights)
    return [
        name
        for name, module in model.named_modules()
        # Not of classes that inherit: torch's own attention reads the weight of its, past `forward`.
        if type(module) is nn.Linear and f"{name}.weight" in wanted
    ]


def refuse_quantized(work: Work) -> None:
    """
    Raises:
        ArtifactError: the work's model has weights in integers.
    """
    forms = work.model.forms
    layers = [change.module for change in forms.changes if isinstance(change.form, Int8Form)]
    layers += [name for name, store in forms.stored.items() if isinstance(store, IntegerStorage)]
    if layers:
        raise ArtifactError(
            f'"{work.artifact.folder}" is quantized already ({len(layers)} layers, first: {layers[0]}); quantize the '
            "artifact that it was made of"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Changing a model in place


def multiply_integers(name: str, range_: tuple[float, float] | None, model: Model) -> None:
    """Make a linear layer one that multiplies integers.

    Args:
        range_: of its input, if it is to be fixed.
    """
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, Int8Linear.of(layer, *(range_ or (None, None))))
    model.forms = model.forms.changed(name, Int8Form(static=range_ is not None)).as_they_are([f"{name}.weight"])


def store_integers(name: str, how: IntegerStorage, model: Model) -> None:
    """Store one weight in integers."""
    store(model, {name: how})


@torch.no_grad()
def store(model: Model, stored: Mapping[str, Storage]) -> None:
    """Say how weights are stored, and give them the values that will be read."""
    weights = model.state_dict()
    for name, how in stored.items():
        weight = weights[name]
        weight.copy_(how.unpack(name, how.pack(name, weight), weight.shape))
    model.forms = model.forms.storing(stored)


def _fits(name: str, pattern: str) -> bool:
    """Does the pattern name the weight, its module, or one that this is a part of?"""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:count]), pattern) for count in range(1, len(parts) + 1))


# ---------------------------------------------------------------------------------------------------------------------
# Calibration


def passes(work: Work, model: Model, rows: int) -> Iterator[Tensor]:
    """The model runs on each batch of calibration rows, when asked for; what it says is looked at.

    Raises:
        DataError: it says the same of all rows, or something that is not a finite number.
    """
    alike = True
    first: Tensor | None = None
    seen = 0
    for batch in batches(work, rows):
        with torch.no_grad():
            answers = [one.float() for one in run(work, model, batch).values()]
        said = torch.cat([one.mean(1) if one.ndim > 2 else one.flatten(1) for one in answers], 1)  # tokens: their mean
        if not bool(torch.isfinite(said).all()):
            raise DataError(f"{work.train.source}: calibration: the model gives numbers that are not finite")
        first = said[:1] if first is None else first
        alike = alike and bool(torch.allclose(said, first.expand_as(said), rtol=1e-4, atol=1e-6))
        seen += len(said)
        yield said
    if alike:
        raise DataError(
            f"{work.train.source}: the {seen} calibration rows are all alike to the model, so they say nothing of the "
            "range of its activations; give --data a table of different rows"
        )


def input_ranges(
    work: Work, model: Model, linears: Sequence[str], rows: int, percentile: float
) -> dict[str, tuple[float, float]]:
    """name -> least and greatest value that goes into a linear layer on the calibration rows, but for the rarest.

    Args:
        percentile: of values that are within on each side, 50 to 100; 100: all.
    """
    values: dict[str, list[Tensor]] = {name: [] for name in linears}
    ends: dict[str, tuple[float, float]] = {}

    def look(name: str, given: Tensor) -> None:
        flat = given.detach().float().flatten()
        low, high = (end.item() for end in flat.aminmax())
        before = ends.get(name, (low, high))
        ends[name] = min(low, before[0]), max(high, before[1])
        values[name].append(flat[:: -(-len(flat) // MOST_VALUES)].clone())

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, given, name=name: look(name, given[0]))
        for name in linears
    ]
    try:
        for _ in passes(work, model, rows):
            pass
    finally:
        for hook in hooks:
            hook.remove()
    if percentile == 100:
        return ends
    return {name: _middle(torch.cat(seen), percentile) for name, seen in values.items() if seen}


def _middle(values: Tensor, percentile: float) -> tuple[float, float]:
    values = values.sort().values
    cut = round(len(values) * (1 - percentile / 100))
    return values[cut].item(), values[len(values) - 1 - cut].item()
