"""The rows of a comparison of fusions, and what every model gets."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from polymodal.config import Config
from polymodal.train.multimodal.pace import VALIDATIONS, Length, TimedJob

BASELINE = "no input"  # the name of an answer that is always the same


class Budget(Config):
    """One of the three; none: to be chosen."""

    seconds: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)
    epochs: int | None = Field(None, ge=1)

    def __str__(self) -> str:
        named = {"s": self.seconds, "steps": self.steps, "epochs": self.epochs}
        return ", ".join(f"{value:g} {unit}" for unit, value in named.items() if value is not None)

    def length(self, job: TimedJob) -> Length:
        """How long the model is trained; where the budget is a time, by timing a few steps."""
        if self.seconds is not None:
            return job.pace(self.seconds).within(self.seconds)
        steps = self.steps or (self.epochs or 1) * job.epoch_steps
        return Length(steps, job.recipe.trainer.val_every or math.ceil(steps / VALIDATIONS))


class Planned(Config):
    """What would be trained, and for how long."""

    name: str
    kind: Literal["fusion", "single"]
    inputs: tuple[str, ...]
    reason: str = ""  # why it is not possible
    parameters: int = 0
    steps: int = 0
    epochs: float = 0.0
    seconds: float = 0.0


class Entry(Config):
    """A row of the comparison."""

    name: str
    kind: Literal["fusion", "single", "baseline"]
    inputs: tuple[str, ...] = ()
    status: Literal["done", "failed", "not possible", "not yet"]
    reason: str = ""  # why it is not done
    score: float | None = None  # the mean of the targets' main metrics
    interval: tuple[float, float] | None = None  # 95 %
    difference: tuple[float, float, float] | None = None  # to the best single input: value, and low and high of 95 %
    parameters: int = 0
    steps: int = 0
    epochs: float = 0.0
    seconds: float = 0.0  # of training, validations included
    samples_per_s: float = 0.0
    run: str | None = None  # its folder in that of the comparison
    reports: dict[str, dict[str, Any]] = Field({})  # by the target's name, as `metrics.supervised.report` gives them


@dataclass(frozen=True)
class Comparison:
    folder: Path
    settings: dict[str, Any]
    entries: tuple[Entry, ...]  # the best first; what has no score last

    @property
    def best(self) -> Entry | None:
        """The trained model with the highest score."""
        return next((entry for entry in self.entries if entry.run and entry.score is not None), None)

    def to_dict(self) -> dict[str, Any]:
        best = self.best
        return {
            "folder": str(self.folder),
            "best": {"name": best.name, "run": str(self.folder / str(best.run))} if best else None,
            "settings": self.settings,
            "models": [entry.to_dict() for entry in self.entries],
        }
