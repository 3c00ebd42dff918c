"""log.jsonl: one JSON object a logged step and one a validation; the same numbers go to the loggers asked for."""

import json
import math
import time
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer

from polymodal.train.console import warn

MOST_LINES = 8  # of one plot; the metrics of several targets are more, and their mean stands for them
TIMES = ("samples_per_s", "seconds")  # keys whose values differ from run to run


class Log(Callback):
    """Writes every `every` steps and after every validation. A resumed run goes on in the same file, without a seam."""

    def __init__(self, file: Path, every: int, epoch_steps: int) -> None:
        self.file = file
        self.every = every
        self.epoch_steps = epoch_steps
        self._since = (0.0, 0)  # when the last line was written, at which step

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._since = (time.monotonic(), trainer.global_step)
        if trainer.is_global_zero:
            kept = [line for line in read_log(self.file) if line["step"] <= trainer.global_step]
            self.file.write_text("".join(map(_line, kept)), encoding="utf-8")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        step = trainer.global_step
        if step % self.every:
            return
        now, (then, before) = time.monotonic(), self._since
        self._since = (now, step)
        rate = (step - before) * pl_module.config.batch_size / max(1e-9, now - then)
        shown = {name: value.item() for name, value in pl_module.shown.items()}
        self._write(trainer, shown | {"lr": pl_module.lr, "samples_per_s": rate})

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._write(trainer, {f"val/{name}": value for name, value in pl_module.measured.items()})
        self._since = (time.monotonic(), trainer.global_step)  # validation is no training time

    def _write(self, trainer: Trainer, numbers: dict[str, float]) -> None:
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(_line({"step": step, "epoch": round(step / self.epoch_steps, 4), **numbers}))
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step)


class AtChance(Callback):
    """Warns once when the loss has stood at ln(batch) for long: the model tells no caption from another.

    For objectives of the InfoNCE kind, whose chance level that is.
    """

    def __init__(self, batch_size: int, patience: int) -> None:
        self.chance = math.log(batch_size)
        self.patience = patience  # steps
        self.steps = 0  # in a row

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        at_chance = abs(pl_module.shown["info_nce"].item() - self.chance) < 0.02 * self.chance
        self.steps = self.steps + 1 if at_chance else 0
        if self.steps == self.patience and trainer.is_global_zero:
            warn(
                f"the loss has stood at ln(batch) = {self.chance:.3f} for {self.steps} steps, which is chance. Look "
                "at the pairs with `polymodal preview`: do the captions belong to the pictures, and do they differ? "
                f"If so, lower trainer.lr (now {pl_module.config.lr:g}) or lengthen trainer.warmup "
                f"(now {pl_module.config.warmup:g})"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps = state_dict["steps"]


def read_log(file: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line that was cut off by a kill is left out."""
    if not file.exists():
        return []
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _line(numbers: dict[str, Any]) -> str:
    finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    return json.dumps(finite) + "\n"


def draw_curve(log: Path, picture: Path) -> None:
    """Loss and validation metrics by step, as a PNG."""
    from matplotlib.figure import Figure  # slow to import

    lines = read_log(log)
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    measured = dict.fromkeys(name for line in lines for name in line if name.startswith("val/") and name != "val/loss")
    if "val/score" in measured and len(measured) > MOST_LINES:
        measured = {"val/score": None}
    for axes, names in ((left, ("loss", "val/loss")), (right, tuple(measured))):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, marker="." if name.startswith("val") else "")
        axes.set_xlabel("step")
        if axes.lines:
            axes.legend()
    figure.savefig(picture, dpi=120)
