"""When checkpoints are written, and how a run stops."""

import math
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import CheckpointIO

from polymodal.train.checkpoint import Index, load, read_index, record, save
from polymodal.train.recipe import lower_is_better

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_restored() -> Iterator[None]:
    """Afterwards the handlers of `STOPPING` are what they were, whatever this module and Lightning have set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.getsignal(number) for number in STOPPING]
    try:
        yield
    finally:
        for number, handler in zip(STOPPING, before, strict=True):
            signal.signal(number, handler)


class FolderCheckpointIO(CheckpointIO):
    """Lightning's checkpoints as folders without a pickle."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        save(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        shutil.rmtree(path, ignore_errors=True)


class Interrupted(Exception):  # noqa: N818 (no error: it was asked for)
    """Training was asked to stop (Ctrl-C or SIGTERM), and a checkpoint of the last whole step is written."""


class Checkpoints(Checkpoint):
    """Saves after every validation, every so many steps, and when asked to stop; keeps the last ones and the best.

    The first Ctrl-C (or SIGTERM) lets the step end and saves; a second one stops at once.
    """

    def __init__(self, folder: Path, *, metric: str, every: int | None, keep: int) -> None:
        self.folder = folder
        self.metric = metric
        self.every = every
        self.keep = keep
        self.asked_to_stop = False

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.asked_to_stop:
            raise KeyboardInterrupt
        self.asked_to_stop = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        # The last step of a period is saved after its validation.
        if trainer.is_last_batch or trainer.should_stop:
            return
        if self.asked_to_stop or (self.every and trainer.global_step % self.every == 0):
            self._save(trainer)
        if self.asked_to_stop:
            raise Interrupted

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        value = pl_module.measured.get(self.metric)
        best = value is not None and self._is_better(value, read_index(self.folder))
        self._save(trainer, value, best)
        if self.asked_to_stop and not trainer.should_stop:
            raise Interrupted

    def _is_better(self, value: float, index: Index) -> bool:
        if math.isnan(value):
            return False  # an AUROC of one class
        if index.best is None or index.best_value is None:
            return True
        return value < index.best_value if lower_is_better(self.metric) else value > index.best_value

    def _save(self, trainer: Trainer, value: float | None = None, best: bool = False) -> None:
        name = f"step-{trainer.global_step:08}"
        trainer.save_checkpoint(self.folder / name)
        if trainer.is_global_zero:
            record(self.folder, name, keep=self.keep, value=value, best=best)
        trainer.strategy.barrier()


class LastStep(Callback):
    """Ends the run after a number of steps, also within a period; the validation still takes place."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step >= self.steps:
            trainer.should_stop = True
