"""How fast a model trains here, and how many steps fit into a time, so that its schedule ends with that time."""

import copy
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer

from polymodal.data.faults import Fault
from polymodal.train import run as runs
from polymodal.train.multimodal.data import Rows
from polymodal.train.multimodal.job import MultimodalJob
from polymodal.train.multimodal.module import MultimodalTraining
from polymodal.train.multimodal.prepare import MultimodalPrepared
from polymodal.types import Batch

WARM_UP = 3  # steps that are not counted: the first ones are slow
MOST_STEPS = 30  # that are timed
SHARE = 0.05  # of the time that is to be filled, at most spent on timing
VALIDATIONS = 10  # of a run, at most
VALIDATION_SHARE = 0.3  # of the time, at most


class Length(NamedTuple):
    steps: int
    val_every: int  # steps


class Pace(NamedTuple):
    step: float  # seconds of a training step, batch included
    validation: float  # seconds of one validation and the checkpoint behind it

    def within(self, seconds: float) -> Length:
        """The longest training that fits into the seconds, at least one step; validated `VALIDATIONS` times at most."""
        validations = VALIDATIONS
        if self.validation:
            validations = min(validations, max(1, int(VALIDATION_SHARE * seconds / self.validation)))
        steps = max(1, int((seconds - validations * self.validation) / self.step))
        return Length(steps, math.ceil(steps / validations))

    def seconds(self, length: Length) -> float:
        """That a training so long takes."""
        return length.steps * self.step + math.ceil(length.steps / length.val_every) * self.validation


class Stopwatch(Callback):
    """The seconds of every step, from the end of the one before; validations and checkpoints are left out.

    Attributes:
        seconds: of the whole training, validations and checkpoints included.
    """

    def __init__(self, enough: Callable[[list[float]], bool] = lambda steps: False) -> None:
        """
        Args:
            enough: of the steps' seconds; once it is true, training is broken off by `Enough`.
        """
        self.enough = enough
        self.steps: list[float] = []
        self.seconds = self._began = self._since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._began = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._since = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        now = time.monotonic()
        self.steps.append(now - self._since)
        self._since = now
        if self.enough(self.steps):
            raise Enough(_forward_seconds(pl_module, batch), _saving_seconds(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.seconds = time.monotonic() - self._began


class Enough(Exception):  # noqa: N818 (no error: it was asked for)
    def __init__(self, forward: float, saving: float) -> None:
        self.forward = forward  # seconds of one batch without gradients
        self.saving = saving  # seconds of one checkpoint


def _forward_seconds(training: MultimodalTraining, batch: Batch) -> float:
    model = training.model.eval()
    began = time.monotonic()
    with torch.no_grad():
        model(training.features.normalize(batch.inputs), batch.present)
    return time.monotonic() - began


def _saving_seconds(trainer: Trainer) -> float:
    began = time.monotonic()
    trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / "step-trial")
    return time.monotonic() - began


class TimedJob(MultimodalJob):
    """A training with a stopwatch. What locked encoders say is worked out once, also where it is timed first."""

    def __init__(self, prepared: MultimodalPrepared) -> None:
        super().__init__(prepared)
        self.stopwatch = Stopwatch()
        self._looked: tuple[Rows, Rows | None] | None = None

    def callbacks(self) -> list[Callback]:
        return [*super().callbacks(), self.stopwatch]

    def _rows(self) -> tuple[Rows, Rows | None]:
        self._looked = self._looked or super()._rows()
        return self._looked

    def lasting(self, length: Length) -> "TimedJob":
        """The same training made so long, with a stopwatch of its own."""
        made = TimedJob(_lasting(self.prepared, length))
        made._looked = self._looked
        return made

    def pace(self, seconds: float) -> Pace:
        """How fast it is, by a few steps of a copy of its model; the model itself stays as it is.

        Args:
            seconds: that a training is to fill; timing takes a small share of them.
        """
        prepared, steps = self.prepared, WARM_UP + MOST_STEPS
        copied = replace(
            _lasting(prepared, Length(steps + 1, steps + 1)),
            model=copy.deepcopy(prepared.model),
            objectives=copy.deepcopy(prepared.objectives),
        )
        trial = _Trial(copied, lambda took: len(took) >= steps or sum(took) >= SHARE * seconds)
        trial._looked = self._rows()
        forward = saving = 0.0
        with tempfile.TemporaryDirectory() as folder:
            try:
                runs.carry_out(trial, folder)
            except Enough as end:
                forward, saving = end.forward, end.saving
        val = prepared.rows.val
        batches = math.ceil(len(val) / prepared.batch_size) if val is not None else 0
        return Pace(float(np.median(trial.stopwatch.steps[WARM_UP:])), batches * forward + saving)


class _Trial(TimedJob):
    def __init__(self, prepared: MultimodalPrepared, enough: Callable[[list[float]], bool]) -> None:
        super().__init__(prepared)
        self.stopwatch = Stopwatch(lambda took: len(took) > WARM_UP and enough(took))

    @property
    def faults(self) -> list[Fault]:
        return []  # the training itself tells of them


def _lasting(prepared: MultimodalPrepared, length: Length) -> MultimodalPrepared:
    steps, val_every = length.steps, min(length)
    trainer = prepared.recipe.trainer.model_copy(update={"steps": steps, "val_every": val_every})
    recipe = prepared.recipe.model_copy(update={"trainer": trainer})
    return replace(prepared, recipe=recipe, total_steps=steps, period=val_every)
