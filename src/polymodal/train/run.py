"""`fit`: a recipe carried out, and what it leaves.

RUN/
  recipe.yaml       resolved; `polymodal fit RUN/recipe.yaml` runs it again
  tokenizer.json    as used
  left-out.csv      rows of the table that could not be used, and why
  log.jsonl         one object a logged step and one a validation
  curve.png
  checkpoints/      the last ones and the best, to go on from
  artifact/         the best model, for use
"""

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.profilers import Profiler

from polymodal.config import write_yaml
from polymodal.errors import ArtifactError, ConfigError, DataError, TrainError, did_you_mean
from polymodal.text import Tokenizer
from polymodal.train import checkpoint
from polymodal.train.checkpoint import read_index
from polymodal.train.clip_job import ClipJob
from polymodal.train.console import Shown, say, warn
from polymodal.train.ema import Ema
from polymodal.train.job import Job
from polymodal.train.log import Log, draw_curve
from polymodal.train.multimodal import MultimodalJob, MultimodalRecipe, prepare_multimodal, read_recipe
from polymodal.train.prepare import prepare
from polymodal.train.recipe import Recipe, RunConfig, TrainerConfig, lower_is_better, recipe_names
from polymodal.train.rows import write_left_out
from polymodal.train.saving import Checkpoints, FolderCheckpointIO, Interrupted, LastStep, signals_restored
from polymodal.train.training import Training

RECIPE, STATE, LEFT_OUT, LOG, CURVE = "recipe.yaml", "table.json", "left-out.csv", "log.jsonl", "curve.png"

# What a resumed run may do otherwise: how long, how it computes, what it leaves; never what it learns from.
CHANGEABLE = (
    "data.cache",
    "data.workers",
    "trainer.chunk_size",
    "trainer.early_stopping",
    "trainer.epochs",
    "trainer.gradient_checkpointing",
    "trainer.keep",
    "trainer.log_every",
    "trainer.precision",
    "trainer.report_to",
    "trainer.save_every",
    "trainer.steps",
)


@dataclass(frozen=True)
class Run:
    """What a run left."""

    folder: Path
    steps: int
    metrics: dict[str, Any]  # of the model in the artifact; empty without validation
    plan: dict[str, Any]

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": str(self.folder),
            "artifact": str(self.artifact),
            "steps": self.steps,
            "metrics": self.metrics,
            "plan": self.plan,
        }


def fit(
    recipe: str | Path | Recipe | Mapping[str, Any] = "clip-tiny",
    table: str | Path | None = None,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Run:
    """Train by a recipe on a table.

    Args:
        recipe: a name (`clip-tiny`), a YAML file, plain values, or a table alone, which means `clip-tiny` on it.
        table: in place of the recipe's `data.table`.
        out: the run's folder; it must not hold a run yet.
        overrides: `key=value` with dotted keys, `trainer.epochs=3`.

    Raises:
        ConfigError: the recipe has faults, or `out` is taken.
        DataError: the table cannot be used.
        TrainError: out of memory, loss not finite, or a checkpoint cannot be written.
        KeyboardInterrupt: stopped by Ctrl-C; a checkpoint is there, and the message says how to go on.
    """
    return carry_out(plan(recipe, table, overrides=overrides), out)


def carry_out(job: Job, out: str | Path | None = None) -> Run:
    """`fit` from its plan on."""
    folder = _claim(job.recipe, out)
    _begin(job, folder)
    return _train(job, folder, None)


def plan(
    recipe: str | Path | Recipe | Mapping[str, Any],
    table: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
) -> Job:
    """Everything that `fit` does before the first step, without leaving a folder: `.plan()` says what would happen."""
    if table is None and isinstance(recipe, str | Path) and _is_table(recipe):
        recipe, table = "clip-tiny", recipe
    if table is not None:
        overrides = (*overrides, f"data.table={json.dumps(str(table))}")
    return _job(read_recipe(recipe, overrides))


def resume(run: str | Path, overrides: Sequence[str] = ()) -> Run:
    """Go on with a run that was stopped, as if it had not been.

    Args:
        run: its folder, or one of its checkpoints.
        overrides: of the keys in `CHANGEABLE`, for instance `trainer.epochs=40` to train for longer.

    Raises:
        ConfigError: an override is of another key, or the run would end before where it stands.
        ArtifactError: there is no run, or its checkpoint is damaged.
        DataError: the table has changed since.
    """
    folder, start = _find_checkpoint(Path(run))
    for key in (assignment.partition("=")[0] for assignment in overrides):
        if key not in CHANGEABLE:
            known = did_you_mean(key, CHANGEABLE) or f"; these can: {', '.join(CHANGEABLE)}"
            raise ConfigError(f'"{key}" cannot be changed in the middle of a run{known}')
    job = _job(read_recipe(folder / RECIPE, overrides), folder)
    before = json.loads((folder / STATE).read_text(encoding="utf-8"))
    now = job.state()
    if changed := [key for key in ("train", "val", "rows", "sample") if before[key] != now[key]]:
        raise DataError(
            f"{now['table']}: the table has changed since the run began ({', '.join(changed)}; then {before['train']} "
            f"training rows, now {now['train']}): begin a new run with `polymodal fit {folder / RECIPE}`"
        )
    stands = int(start.name.rpartition("-")[2])
    if job.total_steps < stands:
        raise ConfigError(f"the run stands at step {stands} and would end at {job.total_steps}: ask for more steps")
    write_yaml(folder / RECIPE, job.recipe.to_dict())
    return _train(job, folder, start)


def _job(recipe: Recipe | MultimodalRecipe, run: Path | None = None) -> Job:
    """The recipe on its table; with the tokenizer of a run that it goes on with."""
    learned = Tokenizer.load(run) if run is not None and (run / "tokenizer.json").exists() else None
    if isinstance(recipe, Recipe):
        return ClipJob(prepare(recipe, say, learned))
    return MultimodalJob(prepare_multimodal(recipe, say, learned))


def _is_table(source: str | Path) -> bool:
    return str(source) not in recipe_names() and Path(source).suffix not in (".yaml", ".yml") and Path(source).exists()


def _claim(recipe: RunConfig, out: str | Path | None) -> Path:
    """The run's folder, made."""
    asked = out or recipe.output
    if asked is not None:
        folder = Path(asked)
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f'"{folder}" is not empty: choose another --out, or go on with `--resume {folder}`')
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    for number in range(1, 10_000):
        folder = Path("runs") / f"{recipe.name}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise ConfigError("runs/ is full; choose a folder with --out")


def _begin(job: Job, folder: Path) -> None:
    write_yaml(folder / RECIPE, job.recipe.to_dict())
    job.begin(folder)
    (folder / STATE).write_text(json.dumps(job.state(), indent=2), encoding="utf-8")
    if job.faults:
        write_left_out(folder / LEFT_OUT, job.faults)
        rows = len({fault.row for fault in job.faults})
        warn(f"{rows} rows {job.fate}, first: {job.faults[0]}; all are in {folder / LEFT_OUT}")


def _find_checkpoint(run: Path) -> tuple[Path, Path]:
    """The run's folder and the checkpoint to start from."""
    if (run / checkpoint.STATE).exists() or run.name.startswith("step-"):
        return run.parent.parent, run
    if not (run / RECIPE).exists():
        raise ArtifactError(f'"{run}" is no run: it has no {RECIPE}; name the folder that `polymodal fit` made')
    saved = read_index(run / "checkpoints").saved
    if not saved:
        raise ArtifactError(f'"{run}" was stopped before its first checkpoint; begin again with a new run')
    return run, run / "checkpoints" / saved[-1]


def _train(job: Job, folder: Path, start: Path | None) -> Run:
    module, data = job.training(fresh=start is None)
    with _surroundings(job):
        trainer = _trainer(job, folder)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=start)
        except (Interrupted, KeyboardInterrupt):
            raise KeyboardInterrupt(_how_to_resume(folder)) from None
    return _finish(job, folder)


def try_out(job: Job, folder: Path, watching: Callback, profiler: Profiler) -> Training:
    """The first steps of a run as `fit` makes them, until `watching` stops it: no validation, and nothing is saved.

    Args:
        folder: for the log.

    Returns:
        What was trained.
    """
    module, data = job.training(fresh=True)
    with _surroundings(job):
        trainer: Any = _trainer(job, folder)
        trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, Checkpoints | EarlyStopping)]
        trainer.callbacks.append(watching)
        trainer.profiler, trainer.limit_val_batches = profiler, 0
        trainer.fit(module, datamodule=data)
    return module


@contextmanager
def _surroundings(job: Job) -> Iterator[None]:
    """Handlers of signals and generators of random numbers are afterwards as they were, and Lightning keeps silent.

    Raises:
        TrainError: memory ran out; the message says what helps.
    """
    with _quiet(), signals_restored(), torch.random.fork_rng(devices=[]):
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
            raise TrainError(_out_of_memory(job.recipe)) from error


def _trainer(job: Job, folder: Path) -> Trainer:
    config, total = job.recipe.trainer, job.total_steps
    callbacks: list[Callback] = [
        Log(folder / LOG, config.log_every, job.epoch_steps),
        Shown(total, config.metric),
        *job.callbacks(),
    ]
    if config.ema is not None:
        callbacks.insert(0, Ema(config.ema))
    if config.early_stopping is not None:
        if not job.validates:
            raise ConfigError("trainer.early_stopping needs validation rows; set data.val_fraction")
        mode = "min" if lower_is_better(config.metric) else "max"
        patience, least = config.early_stopping.patience, config.early_stopping.min_delta
        callbacks.append(EarlyStopping(config.metric, mode=mode, patience=patience, min_delta=least))
    callbacks += [
        LastStep(total),
        Checkpoints(folder / "checkpoints", metric=config.metric, every=config.save_every, keep=config.keep),
    ]
    return Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        strategy=_strategy(job),
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        max_epochs=math.ceil(total / job.period),
        limit_val_batches=1.0 if job.validates else 0,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        plugins=[FolderCheckpointIO()],
        logger=_loggers(config, folder),
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
    )


def _strategy(job: Job) -> str:
    if job.recipe.trainer.devices == 1:
        return "auto"
    # Of several inputs, some may be absent in a whole batch; then nobody has used their encoder.
    return "ddp_spawn" if isinstance(job.recipe, Recipe) else "ddp_spawn_find_unused_parameters_true"


def _loggers(config: TrainerConfig, folder: Path) -> list[Any]:
    """Trackers besides log.jsonl; none of them needs a network.

    Raises:
        ConfigError: one is not installed.
    """
    from pytorch_lightning import loggers

    makers: dict[str, Callable[[], Any]] = {
        "tensorboard": lambda: loggers.TensorBoardLogger(folder, name="tensorboard", version=""),
        "wandb": lambda: loggers.WandbLogger(name=folder.name, save_dir=folder, offline=True),
        "mlflow": lambda: loggers.MLFlowLogger(run_name=folder.name, save_dir=str(folder / "mlruns")),
    }
    made = []
    for name in config.report_to:
        try:
            made.append(makers[name]())
        except ModuleNotFoundError:
            raise ConfigError(
                f'trainer.report_to: {name} is not installed; `pip install "polymodal[{name}]"` brings it'
            ) from None
    return made


def _finish(job: Job, folder: Path) -> Run:
    """Write the artifact from the best checkpoint (the last one without validation), and the curve."""
    index = read_index(folder / "checkpoints")
    state = checkpoint.load(folder / "checkpoints" / (index.best or index.saved[-1]))
    kept = dict(state["state_dict"])
    for callback in state["callbacks"].values():
        kept |= callback.get("average", {})
    # What objectives learn for themselves is no part of the model.
    weights = {name.removeprefix("model."): value for name, value in kept.items() if name.startswith("model.")}
    metrics = {"validation": state["validation"], "step": state["global_step"]} if state["validation"] else {}
    job.finish(folder / "artifact", weights, metrics)
    draw_curve(folder / LOG, folder / CURVE)
    last = checkpoint.load(folder / "checkpoints" / index.saved[-1])["global_step"]
    return Run(folder, last, metrics, job.plan())


def _how_to_resume(folder: Path) -> str:
    saved = read_index(folder / "checkpoints").saved
    if not saved:
        return f"stopped before the first checkpoint; {folder} can be removed"
    return f"stopped; the checkpoint {saved[-1]} is whole. Go on with: polymodal fit --resume {folder}"


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        sign in str(error) for sign in ("can't allocate memory", "out of memory", "not enough memory")
    )


def _out_of_memory(recipe: RunConfig) -> str:
    config, batch_size = recipe.trainer, recipe.trainer.batch_size
    share = batch_size // config.devices
    chunk = min(config.chunk_size or share, share)
    ways = []
    if isinstance(recipe, Recipe):  # only towers that meet in a loss can be computed in pieces
        ways.append(f"trainer.chunk_size={max(1, chunk // 4)} (now {chunk}): the same result in smaller pieces")
    if not config.gradient_checkpointing:
        ways.append("trainer.gradient_checkpointing=true (now false): a third more time")
    if config.precision == "fp32":
        ways.append("trainer.precision=bf16 (now fp32), where the processor computes in it")
    ways.append(f"trainer.batch_size={max(2, batch_size // 2)} (now {batch_size})")
    return "out of memory; the first of these that is acceptable:\n" + "\n".join(f"  {way}" for way in ways)


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's hints to its own users kept from ours."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*|lightning_fabric\..*|torch\..*")
        warnings.filterwarnings("ignore", message=r".*(num_workers|isinstance\(treespec|lr_scheduler\.step).*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
