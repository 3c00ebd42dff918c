"""What the steps of a compression share: how they are written, what they are given, what they give back.

    prune:ffn=0.3,heads=0.25,distill:epochs=2,int8

Commas part. A piece with a `=` that no `:` precedes is one more option of the step before it; every other piece begins
a step, `name` or `name:option=value`. Values are YAML; commas inside [ ] belong to the value.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, cast

from polymodal.artifact import Artifact, Model
from polymodal.config import Config, override
from polymodal.data.manifest import Manifest
from polymodal.errors import ConfigError, did_you_mean
from polymodal.features import Features
from polymodal.preprocess import Preprocess
from polymodal.text import Tokenizer

# name of a step -> its class, imported when it is asked for
STEPS: Mapping[str, str] = {
    "prune": "polymodal.compress.prune:Prune",
    "low_rank": "polymodal.compress.low_rank:LowRank",
    "vocabulary": "polymodal.compress.vocabulary:Vocabulary",
    "distill": "polymodal.compress.distill:Distill",
    "finetune": "polymodal.compress.finetune:Finetune",
    "bf16": "polymodal.compress.quantize:Bfloat16",
    "int8": "polymodal.compress.quantize:Int8",
    "int4": "polymodal.compress.quantize:Int4",
    "qat": "polymodal.compress.qat:Qat",
}


class Quality(NamedTuple):
    """How good a model is on the rows that are measured."""

    metric: str  # "R@1", or target (metric) of each target
    value: float  # the more the better; 1 is perfect
    low: float | None  # of the 95 % interval
    high: float | None
    parts: dict[str, float]  # what `value` is the mean of: both ways of retrieval, or the targets


@dataclass(frozen=True)
class Work:
    """What a step takes and, changed by `dataclasses.replace`, gives back."""

    artifact: Artifact  # as it was given: never changed, the teacher of what learns
    model: Model  # as the steps before have left it, in eval mode; a step changes a `copy` of it
    tokenizer: Tokenizer | None
    preprocess: Preprocess | Features
    train: Manifest  # rows to learn, calibrate and choose from
    measured: Manifest  # rows that only `score` looks at
    measure: Callable[["Work"], Quality]
    say: Callable[[str], None]
    max_loss: float | None = None  # in points of `Quality.value`, 0 to 1, that the whole chain may cost
    before: Quality | None = None  # of the artifact as it was given
    seed: int = 0
    notes: tuple[str, ...] = ()  # what a step did otherwise than asked, or found; the report shows them

    def copy(self) -> Model:
        """A copy of the model that a step may change."""
        return copy.deepcopy(self.model)

    def score(self) -> Quality:
        """How good the model now is on the user's metric."""
        return self.measure(self)


class Step(Config):
    """Base of every step. `kind` is its name in a chain."""

    learns: ClassVar[bool] = False  # weights change by gradients: not possible behind a step that quantizes
    quantizes: ClassVar[bool] = False
    kind: str

    def run(self, work: Work) -> Work:
        """What is left of the work's model after this step.

        Raises:
            ConfigError: the step is not for such a model.
            DataError: the rows do not allow it.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        """As it is written in a chain; options at their defaults are left out."""
        given = self.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
        options = ",".join(f"{name}={str(value).lower() if isinstance(value, bool) else value}"
                           for name, value in given.items())  # fmt: skip
        return f"{self.kind}:{options}" if options else self.kind


def parse_steps(written: str | Sequence[str | Step]) -> list[Step]:
    """The steps of a chain, in their order.

    Raises:
        ConfigError: a step or option is not known (with the nearest name), or the steps cannot stand in this order.
    """
    if isinstance(written, str):
        written = [written]
    steps = [step for one in written for step in ([one] if isinstance(one, Step) else _parse(one))]
    if not steps:
        raise ConfigError(f"steps: wanted one or more, for instance prune:ffn=0.3,int8; known: {', '.join(STEPS)}")
    _refuse_order(steps)
    return steps


def _parse(written: str) -> list[Step]:
    found: list[tuple[str, list[str]]] = []
    for piece in (piece.strip() for piece in re.split(r"[,，](?![^\[]*\])", written)):
        if re.match(r"[^:=]+=", piece):
            if not found:
                raise ConfigError(f'steps: "{piece}" is an option and no step stands before it; write STEP:{piece}')
            found[-1][1].append(_trimmed(piece))
        elif piece:
            name, _, option = piece.partition(":")
            found.append((name.strip(), [_trimmed(option)] if option else []))
    return [_step(name, options) for name, options in found]


def _trimmed(option: str) -> str:
    name, sign, value = option.partition("=")
    return f"{name.strip()}{sign}{value.strip()}"


def _step(name: str, options: Sequence[str]) -> Step:
    if name not in STEPS:
        raise ConfigError(f'no step is named "{name}"{did_you_mean(name, STEPS)}; known: {", ".join(STEPS)}')
    module, _, kind = STEPS[name].partition(":")
    step = cast(type[Step], getattr(import_module(module), kind))
    return step.parse(_values(options), where=f'step "{name}"')


def _values(options: Sequence[str]) -> dict[str, Any]:
    """name -> value. In a list of patterns `*` is no alias of YAML."""
    values: dict[str, Any] = {}
    for option in options:
        name, _, value = option.partition("=")
        if value.startswith("[") and value.endswith("]"):
            values[name] = [one.strip().strip("'\"") for one in value[1:-1].split(",") if one.strip()]
        else:
            values |= override({}, [option])
    return values


def _refuse_order(steps: Sequence[Step]) -> None:
    quantized: Step | None = None
    for step in steps:
        if quantized is not None and not step.quantizes:
            raise ConfigError(
                f'steps: "{step.kind}" cannot follow "{quantized.kind}": what is quantized does not change any more; '
                f'put "{quantized.kind}" last'
            )
        if step.quantizes:
            quantized = step
