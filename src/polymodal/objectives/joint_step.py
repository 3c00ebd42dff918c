"""What the objectives of a model with several inputs see of one training step.

The model runs at most twice: on the batch as it is, and on one in which every masked objective has hidden its part. So
all objectives first hide (`JointStep.prepare`), then each reads its loss (`JointObjective.step`).
Shapes: B rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.features import Features
from polymodal.models.multimodal import Multimodal, MultimodalConfig, MultimodalOutput
from polymodal.models.pretraining import MaskedRegionsHeadConfig, PretrainingHeadConfig
from polymodal.objectives.pairs import belongs
from polymodal.text import Tokenizer
from polymodal.types import Batch, Fused, Input, StepResult, Text, Tokens


class Encoded(NamedTuple):
    tokens: dict[str, Tokens]  # of the encoders
    present: dict[str, Tensor]  # (B,) bool, after inputs were dropped


class Masked(NamedTuple):
    fused: Fused
    present: dict[str, Tensor]  # (B,) bool, after inputs were dropped


class Known(NamedTuple):
    """What a run knows before its model is built."""

    features: Features
    tokenizers: Mapping[str, Tokenizer]  # by the name of a text input


class JointStep:
    """One step: the model, its batch with normalized pixels, and what was worked out once for all objectives."""

    def __init__(self, model: Multimodal, batch: Batch, draw: torch.Generator) -> None:
        """
        Args:
            draw: where masks, noise and negatives are drawn from; dropout draws from torch's own generator.
        """
        self.model = model
        self.batch = batch
        self.draw = draw
        self.paired = batch  # the batch with what objectives put beside each other that does not belong together
        self.hidden = dict(batch.inputs)  # the inputs of `paired` with what objectives hide
        self._prepared: dict[nn.Module, Any] = {}

    @cached_property
    def encoded(self) -> Encoded:
        return Encoded(*self.model.encode(self.batch.inputs, self.batch.present))

    @cached_property
    def fused(self) -> Fused:
        return self.model.fuse(*self.encoded)

    @cached_property
    def clean(self) -> MultimodalOutput:
        """What the model says of the batch as it is."""
        tokens = self.encoded.tokens
        return MultimodalOutput(tokens, self.fused, self.model.heads(self.fused, tokens))

    @cached_property
    def masked(self) -> Masked:
        """What the model says of the batch in which everything is hidden that is to be found again."""
        tokens, present = self.model.encode(self.hidden, self.paired.present)
        return Masked(self.model.fuse(tokens, present), present)

    def prepare(self, objective: "JointObjective") -> Any:
        """What `objective.hide` gave for this step; it is asked once."""
        if objective not in self._prepared:
            assert "masked" not in self.__dict__, "an objective hides after the masked batch has been looked at"
            self._prepared[objective] = objective.hide(self)
        return self._prepared[objective]

    def swap(self, name: str, rows: Tensor) -> None:
        """In the masked batch row i gets input `name` of row `rows[i]`, (B,); what is hidden is hidden in that one."""
        known = self.paired.inputs
        assert all(self.hidden[one] is known[one] for one in known), "an input is swapped after something was hidden"
        given = self.paired.inputs[name]
        taken = _taken(given, rows)
        self.paired = self.paired._replace(
            inputs={**self.paired.inputs, name: taken},
            present={**self.paired.present, name: self.paired.present[name][rows]},
        )
        self.hidden[name] = taken

    def same(self, first: str, second: str) -> Tensor | None:
        """(B, B) bool, where the first input of row i is beside the second of row j in this batch; see `belongs`."""
        return belongs(fingerprints(self.batch.inputs[first]), fingerprints(self.batch.inputs[second]))

    def uniform(self, *shape: int) -> Tensor:
        """Numbers from [0, 1) on the batch's device, drawn where `draw` lives, so that a seed is a seed anywhere."""
        drawn = torch.rand(shape, generator=self.draw, device=self.draw.device)
        return drawn.to(self.batch.rows.device)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape of `like`."""
        drawn = torch.randn(like.shape, generator=self.draw, device=self.draw.device)
        return drawn.to(like)


class JointObjective(nn.Module, ABC):
    """A loss with its settings, and weights of its own where it learns some. Losses add up, each times its weight."""

    weight: float
    swaps: bool = False  # whether `hide` swaps inputs between rows, which comes before any hiding

    def heads(self, config: MultimodalConfig, features: Features) -> dict[str, PretrainingHeadConfig]:
        """Heads that the model must have in `pretraining`, by name; one that it has already may differ in settings."""
        return {}

    def hide(self, step: JointStep) -> Any:
        """Change `step.hidden`, and give back what `step` needs to know of it.

        What is to be found again is that of `step.paired`.
        """
        return None

    @abstractmethod
    def step(self, step: JointStep) -> StepResult:
        """The loss, and what a log wants to know; entries of a log have no graph."""


class Joint(nn.Module):
    """Several objectives as one: the weighted sum of their losses, and all their logs."""

    def __init__(self, objectives: Sequence[JointObjective]) -> None:
        super().__init__()
        self.objectives = nn.ModuleList(objectives)

    def heads(self, config: MultimodalConfig, features: Features) -> dict[str, PretrainingHeadConfig]:
        """What all objectives need together: a head that the model has already stays as it is.

        Raises:
            ConfigError: a head of the model has the name of one that is needed, and does not fit.
        """
        needed = {name: head for one in self._each() for name, head in one.heads(config, features).items()}
        return {name: _kept(name, head, config.pretraining.get(name)) for name, head in needed.items()}

    def prepare(self, step: JointStep) -> list[Any]:
        """What each objective's `hide` gave."""
        for objective in sorted(self._each(), key=lambda one: not one.swaps):
            step.prepare(objective)
        return [step.prepare(objective) for objective in self._each()]

    def forward(self, step: JointStep) -> StepResult:
        self.prepare(step)
        results = [(objective.weight, objective.step(step)) for objective in self._each()]
        loss = torch.stack([weight * result.loss for weight, result in results]).sum()
        return StepResult(loss, {name: value for _, result in results for name, value in result.log.items()})

    def _each(self) -> list[JointObjective]:
        return [objective for objective in self.objectives if isinstance(objective, JointObjective)]


def _kept(name: str, needed: PretrainingHeadConfig, there: PretrainingHeadConfig | None) -> PretrainingHeadConfig:
    if there is None:
        return needed
    has, asks = (
        {key: one.model_dump()[key] for key in ("kind", "input") if hasattr(one, key)} for one in (there, needed)
    )
    if isinstance(needed, MaskedRegionsHeadConfig) and isinstance(there, MaskedRegionsHeadConfig):
        has, asks = has | there.outputs, asks | needed.outputs  # it may have more outputs than are needed
    if not asks.items() <= has.items():
        raise ConfigError(
            f'model.pretraining: head "{name}" must have {_listed(asks)}, got {_listed(has)}; give the objective '
            "another `head`, or leave this one out of the model"
        )
    return there


def _listed(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _taken(given: Input, rows: Tensor) -> Input:
    if isinstance(given, Tensor):
        return given[rows]
    parts: list[Any] = [None if part is None else part[rows] for part in given]
    return type(given)(*parts)


def fingerprints(given: Input) -> Tensor:
    """(B,) int64: equal numbers for rows of equal content, different ones for different content but by rare chance.

    Sums of the bits times fixed odd numbers, modulo 2^64: exact, so that neither order nor device has a say.
    """
    if isinstance(given, Text):  # what stands in padding does not count
        given = given.ids.masked_fill(~given.mask, -1)
    parts = [given] if isinstance(given, Tensor) else [part for part in given if part is not None]
    return torch.stack([_hash(part, seed) for seed, part in enumerate(parts)]).sum(0)


def _hash(values: Tensor, seed: int) -> Tensor:
    flat = values.flatten(1)
    bits = flat.float().contiguous().view(torch.int32) if flat.is_floating_point() else flat
    factors = _factors(bits.shape[1], seed).to(bits.device)
    return torch.stack([(row.long() * factors).sum() for row in bits])  # row by row: a batch as int64 is large


@lru_cache(maxsize=16)
def _factors(count: int, seed: int) -> Tensor:
    """Odd numbers (count,) int64."""
    return torch.randint(2**62, (count,), generator=torch.Generator().manual_seed(seed)) * 2 + 1
