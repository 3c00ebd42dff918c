"""Where the time of a training step goes, and how much of the machine's limit it reaches.

The steps are those of `fit`, by Lightning's own loop, which tells a profiler when each of its parts begins and ends.
Every moment of a step belongs to the innermost part that is known by name, so that the parts add up to the step; what
belongs to none is Lightning's own.
"""

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.profilers import Profiler
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from polymodal.errors import ConfigError
from polymodal.train import run
from polymodal.train.job import Job

WARM_UP = 3  # steps that are not measured: the first ones allocate, the second counts FLOPs
PARTS = ("data", "forward", "backward", "optimizer", "callbacks", "lightning")
# By how Lightning's name of an action begins and ends; the first that fits counts.
ACTIONS = (
    ("[Callback]", "", "callbacks"),
    ("", ".train_dataloader_next", "data"),
    ("", "_batch_transfer", "data"),
    ("", "batch_to_device", "data"),
    ("[Strategy]", ".training_step", "forward"),
    ("[Strategy]", ".backward", "backward"),
    ("[LightningModule]", ".optimizer_step", "optimizer"),
    ("[LightningModule]", ".optimizer_zero_grad", "optimizer"),
    ("[LightningModule]", ".configure_gradient_clipping", "optimizer"),
    ("[LightningModule]", ".lr_scheduler_step", "optimizer"),
)
STEP_ENDS = ("[LightningModule]", ".on_train_batch_end")
LIMIT_SIDE, LIMIT_SECONDS = 1024, 2.0  # of the matrices that are multiplied, and how long


@dataclass(frozen=True)
class Part:
    seconds: float  # of a step, on the mean
    share: float  # of the step, 0 to 1


@dataclass(frozen=True)
class Weights:
    total: int
    trained: int


@dataclass(frozen=True)
class Profile:
    plan: dict[str, Any]  # what `fit` would do
    steps: int  # measured
    batch_size: int  # samples of a step
    step_seconds: float  # the mean
    spread: tuple[float, float]  # seconds of a fast and of a slow step: first and ninth decile
    parts: dict[str, Part]  # by PARTS; they add up to `step_seconds`
    parameters: dict[str, Weights]  # by encoder, fusion, head, ...; they add up to the model
    flops: int  # of a step, forward and backward; an addition and a multiplication are two
    limit: float  # FLOP/s of a large matrix product on this machine, in the run's precision
    threads: int
    memory: int  # bytes, the most that this process has held so far, preparation included

    @property
    def samples_per_s(self) -> float:
        return self.batch_size / self.step_seconds

    @property
    def share_of_limit(self) -> float:
        """Of what the machine could multiply during a step, 0 to 1."""
        return self.flops / self.step_seconds / self.limit

    @property
    def model_share_of_limit(self) -> float:
        """The same, of the time in forward and backward alone."""
        return self.flops / (self.parts["forward"].seconds + self.parts["backward"].seconds) / self.limit

    def to_dict(self) -> dict[str, Any]:
        names = ("samples_per_s", "share_of_limit", "model_share_of_limit")
        return asdict(self) | {name: getattr(self, name) for name in names}


def profile(
    recipe: Any = "clip-tiny", table: str | Path | None = None, *, overrides: Sequence[str] = (), steps: int = 30
) -> Profile:
    """The first steps of a run, measured; nothing is kept.

    Args:
        recipe, table, overrides: as `fit` takes them.
        steps: to measure, after WARM_UP others.

    Raises:
        ConfigError: `steps` is below 1, or the recipe wants several processes; and what `fit` raises.
    """
    if steps < 1:
        raise ConfigError(f"profile: steps must be at least 1, got {steps}")
    wanted = WARM_UP + steps + 1  # the last one has no batch after it to wait for
    job = run.plan(recipe, table, overrides=overrides)
    if job.recipe.trainer.devices != 1:
        raise ConfigError(
            f"profile looks at one process, got trainer.devices={job.recipe.trainer.devices}; add trainer.devices=1"
        )
    if job.total_steps < wanted:
        job = run.plan(recipe, table, overrides=(*overrides, f"trainer.steps={wanted}"))
    return _measured(job, steps)


def _measured(job: Job, steps: int) -> Profile:
    clock = Clock()
    watch = Watch(clock, WARM_UP, steps)
    with tempfile.TemporaryDirectory() as folder:
        module = run.try_out(job, Path(folder), watch, clock)
    taken = clock.steps[WARM_UP : WARM_UP + steps]
    lengths = [sum(step.values()) for step in taken]
    mean = statistics.fmean(lengths)
    seconds = {name: statistics.fmean(step.get(name, 0.0) for step in taken) for name in PARTS}
    precision = torch.bfloat16 if job.recipe.trainer.precision == "bf16" else torch.float32
    return Profile(
        plan=job.plan(),
        steps=len(taken),
        batch_size=module.config.batch_size,
        step_seconds=mean,
        spread=(_decile(lengths, 1), _decile(lengths, 9)),
        parts={name: Part(value, value / mean) for name, value in seconds.items()},
        parameters=parameters_by_part(module.model),
        flops=watch.flops,
        limit=matmul_limit(watch.device, precision, LIMIT_SECONDS),
        threads=torch.get_num_threads(),
        memory=peak_memory(),
    )


class Clock(Profiler):
    """Seconds of each part of each step, by what Lightning says that it does."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, float]] = []  # by part; whole steps only
        self.device = torch.device("cpu")
        self._open = ["lightning"]  # parts that have begun, the innermost last
        self._step: dict[str, float] = {}
        self._since = time.perf_counter()

    def start(self, action_name: str) -> None:
        self._count()
        self._open.append(part_of(action_name) or self._open[-1])

    def stop(self, action_name: str) -> None:
        self._count()
        self._open.pop()
        if action_name.startswith(STEP_ENDS[0]) and action_name.endswith(STEP_ENDS[1]):
            self.steps.append(self._step)
            self._step = {}

    def _count(self) -> None:
        """The time since the last event, for the part that is going on."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # what was only queued until now belongs to this part
        now = time.perf_counter()
        self._step[self._open[-1]] = self._step.get(self._open[-1], 0.0) + now - self._since
        self._since = now


def part_of(action: str) -> str | None:
    """Which part an action of Lightning belongs to; None: that of the action around it."""
    fitting = (part for begin, end, part in ACTIONS if action.startswith(begin) and action.endswith(end))
    return next(fitting, None)


class Watch(Callback):
    """Counts the FLOPs of one step that is not measured, and stops when enough are."""

    def __init__(self, clock: Clock, warm_up: int, steps: int) -> None:
        self.clock = clock
        self.last = warm_up + steps + 1
        self.flops = 0
        self._counter: FlopCounterMode | None = None

    @property
    def device(self) -> torch.device:
        return self.clock.device

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.clock.device = pl_module.device

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == 1:
            self._counter = flop_counter()
            self._counter.__enter__()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.flops = self._counter.get_total_flops()
            self._counter = None
        if trainer.global_step >= self.last:
            trainer.should_stop = True


def flop_counter() -> FlopCounterMode:
    """torch's counter, which leaves out attention on a CPU, with that."""

    def forward(query: Any, key: Any, value: Any, *args: Any, **options: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def backward(grad: Any, query: Any, key: Any, value: Any, *args: Any, **options: Any) -> int:
        return int(sdpa_backward_flop_count(grad, query, key, value))

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return FlopCounterMode(display=False, custom_mapping={attention: forward, attention_backward: backward})


def parameters_by_part(model: nn.Module) -> dict[str, Weights]:
    """Weights of the model's parts: encoders one by one, fusion, heads; "rest" for those that stand by themselves.

    A weight that several parts share counts for the first.
    """
    seen: set[nn.Parameter] = set()
    counted = {}
    for name, weights in _parts(model):
        own = [weight for weight in dict.fromkeys(weights) if weight not in seen]
        seen.update(own)
        if own:
            trained = sum(weight.numel() for weight in own if weight.requires_grad)
            counted[name] = Weights(sum(weight.numel() for weight in own), trained)
    return counted


def _parts(model: nn.Module) -> Iterator[tuple[str, Iterator[nn.Parameter]]]:
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleDict):
            yield from ((f"{name}.{inner}", part.parameters()) for inner, part in child.items())
        else:
            yield name, child.parameters()
    yield "rest", model.parameters(recurse=False)


def matmul_limit(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """FLOP/s of a product of two square matrices, the best of as many as `seconds` allow, three at least."""
    left, right = (torch.randn(LIMIT_SIDE, LIMIT_SIDE, device=device, dtype=dtype) for _ in range(2))
    best, end, done = math.inf, time.perf_counter() + seconds, 0
    while done < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best, done = min(best, time.perf_counter() - start), done + 1
    return 2 * LIMIT_SIDE**3 / best


def peak_memory() -> int:
    """Bytes, the most that this process has had in memory at once."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # kibibytes everywhere else


def _decile(values: Sequence[float], number: int) -> float:
    """The first decile lies above a tenth of the values."""
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * number / 10)]
