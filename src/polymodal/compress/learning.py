"""A model of a chain goes on learning from the work's rows, by the package's own trainer.

The run leaves no folder: its best weights go back into the model. Weights that were pruned to zero stay zero.
"""

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from pytorch_lightning import Callback
from torch import Tensor

from polymodal.compress.imitation import TaughtClipTraining, TaughtPairs, TaughtRows
from polymodal.compress.sparse import hold_zeros
from polymodal.compress.step import Step, Work
from polymodal.data.feature_rows import FeatureRows
from polymodal.data.manifest import Manifest
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.features import Features
from polymodal.models.clip import Clip
from polymodal.models.ensemble import ClipEnsemble, Ensemble
from polymodal.models.multimodal import Multimodal
from polymodal.objectives import InfoNceConfig, Objective, ObjectiveConfig, SiglipConfig
from polymodal.objectives.joint import build_objectives
from polymodal.objectives.joint_step import Joint, JointObjective
from polymodal.objectives.supervised import SupervisedConfig
from polymodal.preprocess import Preprocess
from polymodal.train.build import Built, prepare_weights, resolve_precision
from polymodal.train.clip_job import ClipJob
from polymodal.train.job import Job
from polymodal.train.multimodal.job import MultimodalJob
from polymodal.train.multimodal.prepare import MultimodalPrepared, Rows
from polymodal.train.multimodal.recipe import MultimodalData, MultimodalRecipe, MultimodalTrainer, read_recipe
from polymodal.train.prepare import Prepared
from polymodal.train.recipe import DataConfig, PretrainedModel, Recipe, TrainerConfig
from polymodal.train.rows import picture_numbers, usable
from polymodal.train.run import carry_out


class Learning(Step):
    """What every step that trains can be told."""

    learns: ClassVar[bool] = True
    epochs: int = Field(1, ge=1)
    lr: float = Field(1e-4, gt=0)
    batch_size: int = Field(64, ge=2)
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.05, ge=0)  # below 1: share of all steps
    ema: float | None = Field(None, ge=0, lt=1)  # decay of averaged weights, 0.99 say; they are what is kept
    freeze: tuple[str, ...] = ()  # patterns of what does not learn, as in a recipe: [image_encoder]

    def trainer(self, rows: int, work: Work) -> dict[str, Any]:
        """Settings of the trainer.

        Raises:
            DataError: there are fewer than two rows.
        """
        size = min(self.batch_size, rows)
        if size < 2:
            raise DataError(f'{work.train.source}: step "{self.kind}" needs at least 2 rows to learn from, got {rows}')
        if size < self.batch_size:
            work.say(f"{self.kind}: batch_size is {size} in place of {self.batch_size}: there are {rows} rows")
        return {
            "epochs": self.epochs,
            "lr": self.lr,
            "batch_size": size,
            "weight_decay": self.weight_decay,
            "warmup": self.warmup,
            "ema": self.ema,
            "freeze": self.freeze,
            "precision": resolve_precision("auto", "auto"),
            "seed": work.seed,
            "keep": 1,
        }


def refuse_fixed(work: Work, kind: str) -> None:
    """
    Raises:
        ArtifactError: the model is quantized, or made of several models.
    """
    if isinstance(work.model, Ensemble | ClipEnsemble):
        raise ArtifactError(
            f'step "{kind}": "{work.artifact.folder}" is made of several models and does not learn; let it be the '
            "teacher of another model (distill:teacher=...), or work on its members"
        )
    if work.model.forms.stored or any(change.form.kind == "int8" for change in work.model.forms.changes):
        raise ArtifactError(
            f'step "{kind}": "{work.artifact.folder}" is quantized, and what is quantized does not learn; take the '
            "artifact that it was made of, and quantize last"
        )


def _prepare(model: Clip | Multimodal, trainer: TrainerConfig, tower: int) -> None:
    model.requires_grad_(True)
    if isinstance(model, Clip):
        model.log_scale.requires_grad_(model.config.learn_temperature)
    prepare_weights(model, trainer, tower)


def _carry_out(job: Job, model: Clip | Multimodal) -> None:
    with hold_zeros(model), tempfile.TemporaryDirectory(prefix="polymodal-") as folder:
        carry_out(job, Path(folder) / "run")
    model.requires_grad_(True).eval()


# ---------------------------------------------------------------------------------------------------------------------
# Pictures and texts

TeachPairs = Callable[[Sequence[Manifest], Sequence[np.ndarray]], TaughtPairs]  # of rows and their pictures' numbers


def learn_pairs(work: Work, model: Clip, step: Learning, hard: float, teach: TeachPairs | None = None) -> None:
    """Train `model`, in place, by its own objectives times `hard` and by what `teach` gives.

    Raises:
        DataError: rows cannot be used.
        ConfigError: `freeze` covers nothing, or everything.
    """
    if work.tokenizer is None or not isinstance(work.preprocess, Preprocess):
        raise DataError(f'step "{step.kind}": "{work.artifact.folder}" has no tokenizer, and pairs need texts')
    if not work.train.text or work.train.image is None:
        raise DataError(f'{work.train.source}: step "{step.kind}" learns from pictures with texts, and one is missing')
    rows, _ = usable(work.train, work.say)
    numbers = picture_numbers(rows) if len(rows) else np.empty(0, np.int64)
    trainer = TrainerConfig(**step.trainer(len(rows), work))
    configs = _objectives_of(work, model) if hard else []
    objectives: list[Objective] = [config.build() for config in _times(configs, hard)]
    _prepare(model, trainer, tower=1)
    taught = teach([rows], [numbers]) if teach else None
    steps = len(rows) // trainer.batch_size
    prepared = Prepared(
        recipe=Recipe(
            name=step.kind,
            data=DataConfig(table=str(rows.source), val_fraction=0),
            model=PretrainedModel(source=str(work.artifact.folder)),
            preprocess=work.preprocess,
            objectives=configs or [InfoNceConfig()],
            trainer=trainer,
        ),
        train=rows,
        val=None,
        divided="rows of the chain",
        faults=[],
        numbers=(numbers, np.empty(0, np.int64)),
        built=Built(model, work.tokenizer, work.preprocess),
        objectives=[*objectives, *([taught] if taught else [])],
        epoch_steps=steps,
        total_steps=step.epochs * steps,
        period=steps,
    )
    with contextlib.ExitStack() as stack:
        if taught:
            stack.callback(taught.stop)
        _carry_out(_ClipLearning(prepared), model)


class _ClipLearning(ClipJob):
    """Leaves its weights in the model, and no artifact."""

    training_class = TaughtClipTraining

    def callbacks(self) -> list[Callback]:
        return []  # "loss at chance" is a warning for models that begin at random

    def finish(self, folder: Path, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        self.prepared.built.model.load_state_dict(weights)


def _objectives_of(work: Work, model: Clip) -> list[ObjectiveConfig]:
    """Those of the recipe that trained it; without one SigLIP's for a model with a bias, else CLIP's."""
    recipe = _recipe(work)
    if isinstance(recipe, Recipe):
        return recipe.objectives
    return [SiglipConfig() if model.bias is not None else InfoNceConfig()]


# ---------------------------------------------------------------------------------------------------------------------
# Rows of a table

TeachRows = Callable[[Sequence[Manifest]], TaughtRows]


def learn_rows(work: Work, model: Multimodal, step: Learning, hard: float, teach: TeachRows | None = None) -> None:
    """Train `model`, in place, by its supervised losses times `hard` and by what `teach` gives.

    Raises:
        DataError: rows cannot be used.
        ConfigError: `freeze` covers nothing, or everything.
    """
    features = work.preprocess
    assert isinstance(features, Features)
    if not features.targets and not teach:
        raise ConfigError(
            f'step "{step.kind}": "{work.artifact.folder}" has no targets to learn; let a teacher teach it'
        )
    trainer = MultimodalTrainer(**step.trainer(len(work.train), work))
    _prepare(model, trainer, tower=2)
    configs = _times(_supervised_of(work), hard) if hard and features.targets else []
    taught = teach([work.train]) if teach else None
    own: list[JointObjective] = [one for one in build_objectives(configs, features, {}).objectives
                                 if isinstance(one, JointObjective)]  # fmt: skip
    steps = len(work.train) // (trainer.batch_size or 1)
    rows = FeatureRows(work.train, features, work.tokenizer, seed=work.seed)
    rows.open_files(step.epochs)
    prepared = MultimodalPrepared(
        recipe=MultimodalRecipe(
            name=step.kind,
            data=MultimodalData(table=str(work.train.source), targets={name: {} for name in features.targets}),
            objectives=configs or [SupervisedConfig()],
            trainer=trainer,
        ),
        rows=Rows(work.train, None, None, "rows of the chain"),
        features=features,
        tokenizer=work.tokenizer,
        model=model,
        objectives=Joint([*own, *([taught] if taught else [])]),
        batch_size=trainer.batch_size or len(rows),
        choices=[],
        train=rows,
        val=None,
        epoch_steps=steps,
        total_steps=step.epochs * steps,
        period=steps,
    )
    with contextlib.ExitStack() as stack:
        if taught:
            stack.callback(taught.stop)
        _carry_out(_RowsLearning(prepared), model)


class _RowsLearning(MultimodalJob):
    """Leaves its weights in the model, and no artifact."""

    def finish(self, folder: Path, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        self.prepared.model.load_state_dict(weights)


def _supervised_of(work: Work) -> list[SupervisedConfig]:
    """That of the recipe that trained it, where it has one."""
    recipe = _recipe(work)
    objectives = recipe.objectives if isinstance(recipe, MultimodalRecipe) else []
    return [one for one in objectives if isinstance(one, SupervisedConfig)] or [SupervisedConfig()]


def _recipe(work: Work) -> Recipe | MultimodalRecipe | None:
    file = work.artifact.folder / "recipe.yaml"
    try:
        return read_recipe(file) if file.is_file() else None
    except ConfigError:  # of an older version: what it trained is told by the model itself
        return None


def _times(configs: Sequence[Any], factor: float) -> list[Any]:
    return [config.model_copy(update={"weight": factor * config.weight}) for config in configs]
