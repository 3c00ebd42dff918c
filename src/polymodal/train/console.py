"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere; all of it on stderr."""

import time
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


def say(message: str, style: str | None = None) -> None:
    """A line of talk, above a running progress bar."""
    console.print(message, style=style, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    say(f"warning: {message}", "yellow")


def bar(*columns: TextColumn) -> Progress:
    """A progress bar that keeps silent where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        *columns,
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


class Shown(Callback):
    """The bar of a run with loss, metric, samples a second and the time left."""

    def __init__(self, total_steps: int, metric: str) -> None:
        self.total_steps = total_steps
        self.metric = metric
        self._bar: Progress | None = None  # made late: it cannot be sent to another process
        self._measured = ""
        self._started = (0.0, 0)  # when, at which step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = (time.monotonic(), trainer.global_step)
        if trainer.is_global_zero:
            self._bar = bar(TextColumn("{task.fields[numbers]}"))
            self._bar.start()
            done = trainer.global_step
            self._task = self._bar.add_task("training", total=self.total_steps, completed=done, numbers="")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if self._bar is not None and not self._bar.disable:
            loss, rate = pl_module.shown["loss"].item(), self.rate(trainer, pl_module)
            numbers = f"loss {loss:.3f}{self._measured}  {rate:,.0f} samples/s"
            self._bar.update(self._task, completed=trainer.global_step, numbers=numbers)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        measured = pl_module.measured
        self._measured = f"  {self.metric} {measured[self.metric]:.3f}"
        rate = self.rate(trainer, pl_module)
        left = (self.total_steps - trainer.global_step) * pl_module.config.batch_size / max(1e-9, rate)
        say(
            f"step {trainer.global_step}/{self.total_steps}  loss {pl_module.shown['loss'].item():.3f}  "
            f"{_listed(measured)}  {rate:,.0f} samples/s  {_clock(left)} left"
        )

    def rate(self, trainer: Trainer, pl_module: Any) -> float:
        """Pairs a second since the start, validation included."""
        since, step = self._started
        pairs = (trainer.global_step - step) * pl_module.config.batch_size
        return float(pairs) / max(1e-9, time.monotonic() - since)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _listed(measured: Mapping[str, float], count: int = 4) -> str:
    """The first metrics of a validation."""
    return "  ".join(
        f"{'val loss' if name == 'loss' else name} {value:.3f}" for name, value in list(measured.items())[:count]
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
