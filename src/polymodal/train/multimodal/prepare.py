"""From a recipe to everything that a run with several inputs needs: rows, features, model, objectives, and the plan."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polymodal.data.cache import digest
from polymodal.data.faults import Fault
from polymodal.data.feature_rows import FeatureRows
from polymodal.data.fit_features import InputPlan, fit_features, infer_inputs
from polymodal.data.manifest import Manifest
from polymodal.data.source import Rows as Columns
from polymodal.data.targets import infer_target
from polymodal.data.texts import joined
from polymodal.errors import ConfigError, DataError, did_you_mean
from polymodal.features import Features, InputConfig, Target, TextInput
from polymodal.models.multimodal import Multimodal
from polymodal.objectives.joint import Joint
from polymodal.preprocess import AudioPreprocess, ImagePreprocess, TextPreprocess
from polymodal.text import Tokenizer
from polymodal.train.build import prepare_weights, resolve_precision
from polymodal.train.multimodal import choose
from polymodal.train.multimodal.build import (
    Sources,
    built,
    model_config,
    objectives_for,
    tokenizer_for,
)
from polymodal.train.multimodal.choose import Choice
from polymodal.train.multimodal.recipe import InputColumns, MultimodalData, MultimodalRecipe
from polymodal.train.prepare import device_name
from polymodal.train.rows import divide, picture_numbers

Places = NDArray[np.int64]
Say = Callable[[str], None]


@dataclass
class Rows:
    """The rows of a table by what they are for."""

    train: Manifest
    val: Manifest | None
    test: Manifest | None
    reason: str


@dataclass
class MultimodalPrepared:
    recipe: MultimodalRecipe  # resolved: every number that was chosen is in it
    rows: Rows
    features: Features
    tokenizer: Tokenizer | None
    model: Multimodal
    objectives: Joint
    batch_size: int
    choices: list[Choice]
    train: FeatureRows
    val: FeatureRows | None
    epoch_steps: int
    total_steps: int
    period: int

    @property
    def faults(self) -> list[Fault]:
        return [*self.train.faults, *(self.val.faults if self.val else ())]

    def plan(self) -> dict[str, Any]:
        """What is about to happen, as plain values."""
        weights = list(self.model.parameters())
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        trainer, rows = self.recipe.trainer, self.rows
        return {
            "recipe": self.recipe.name,
            "table": self.recipe.data.table,
            "rows": {
                "train": len(rows.train),
                "val": len(rows.val) if rows.val else 0,
                "test": len(rows.test) if rows.test else 0,
                "divided_by": rows.reason,
            },
            "inputs": {name: config.kind for name, config in self.features.inputs.items()},
            "targets": {name: target.task for name, target in self.features.targets.items()},
            "encoders": choose.summary(self.model.config.encoders),
            "fusion": self.model.config.fusion.kind,
            "choices": [choice._asdict() for choice in self.choices],
            "parameters": {"trained": trained, "frozen": sum(weight.numel() for weight in weights) - trained},
            "objectives": [objective.kind for objective in self.recipe.objectives],
            "steps": self.total_steps,
            "epochs": round(self.total_steps / self.epoch_steps, 2),
            "batch_size": self.batch_size,
            "device": device_name(trainer.accelerator, trainer.devices),
            "precision": trainer.precision,
        }

    def state(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""
        train, val = self.rows.train, self.rows.val
        return {
            "table": str(Path(train.source)),
            "file": str(Path(train.source).resolve()),  # by which an evaluation knows it again
            "stamp": train.stamp,
            "train": len(train),
            "val": len(val) if val else 0,
            "sample": digest(self.features.to_dict()),
            "rows": digest([train.row_numbers.tolist(), val.row_numbers.tolist() if val else []]),
        }


def prepare_multimodal(recipe: MultimodalRecipe, say: Say, tokenizer: Tokenizer | None = None) -> MultimodalPrepared:
    """Read the table, learn its features from the training rows, and choose what the recipe leaves open.

    Args:
        tokenizer: one that was learned for this run before.

    Raises:
        ConfigError, DataError, ArtifactError: the recipe, the table or a checkpoint cannot be used.
    """
    manifest = read_table(recipe.data)
    for note in manifest.notes:
        say(note)
    rows = divide_rows(manifest, recipe)
    count = len(rows.train)
    sources = Sources.of(recipe.model)
    choices: list[Choice] = []
    targets = _targets(rows.train, recipe.data, choices)
    plans = _inputs(rows.train, recipe, targets, sources, choices)
    fitted = fit_features(rows.train, plans, targets)
    for note in fitted.notes:
        say(note)
    features = sources.settle(fitted.features, recipe.data.inputs or {}).with_decoding(recipe.data.decoding)
    recipe, batch_size, epochs = _resolved_trainer(recipe, count, choices)
    own = tokenizer_for(recipe, features, lambda: _texts(rows.train, features), sources, tokenizer)
    config, objectives = objectives_for(
        recipe, model_config(recipe, features, own, sources, count, choices), features, own
    )
    model = built(config, sources, recipe.trainer.seed, choices)
    prepare_weights(model, recipe.trainer, tower=2)
    epoch_steps = max(1, count // batch_size)
    total_steps = recipe.trainer.steps or epochs * epoch_steps
    train = FeatureRows(rows.train, features, own, recipe.data.augment, seed=recipe.trainer.seed)
    val = FeatureRows(rows.val, features, own) if rows.val else None
    for part in filter(None, (train, val)):
        part.open_files(epochs if part is train else 1)
        for note in part.notes:
            say(note)
    return MultimodalPrepared(
        recipe=_resolved_model(recipe, config, plans, features),
        rows=rows,
        features=features,
        tokenizer=own,
        model=model,
        objectives=objectives,
        batch_size=batch_size,
        choices=choices,
        train=train,
        val=val,
        epoch_steps=epoch_steps,
        total_steps=total_steps,
        period=min(recipe.trainer.val_every or epoch_steps, total_steps),
    )


def _targets(train: Manifest, data: MultimodalData, choices: list[Choice]) -> dict[str, Target]:
    targets: dict[str, Target] = {}
    for name, plan in data.targets.items():
        target, reason = infer_target(train, plan.columns or (name,), plan.task)
        if plan.classes is not None:
            if missing := set(target.classes) - set(plan.classes):
                raise ConfigError(
                    f"data.targets.{name}.classes lacks {', '.join(sorted(missing)[:5])}, which rows have"
                )
            target = target.model_copy(update={"classes": plan.classes})
        targets[name] = target
        choices.append(Choice(f"target {name}", target.task, reason))
    return targets


def _inputs(
    train: Manifest, recipe: MultimodalRecipe, targets: Mapping[str, Target], sources: Sources, choices: list[Choice]
) -> dict[str, InputPlan]:
    """The inputs that the recipe names, or all that the table has."""
    data, size = recipe.data, choose.image_size(len(train))
    if data.inputs is not None:
        return {name: _plan(train, name, asked, size) for name, asked in data.inputs.items()}
    for column in data.leave:
        train.column(column)  # raises if it is not there
    found = infer_inputs(train, targets, data.leave)
    choices += [Choice(f"column {name}", "not read", reason) for name, reason in found.left_out.items()]
    choices += [Choice(f"input {name}", ", ".join(plan.columns), plan.reason) for name, plan in found.inputs.items()]
    return sources.named({name: _usual(plan, size) for name, plan in found.inputs.items()}, choices)


def _plan(train: Manifest, name: str, asked: InputColumns, size: int) -> InputPlan:
    known = [column.name for column in train.columns]
    for column in asked.columns:
        if column not in known:
            raise DataError(
                f'data.inputs.{name}: no column is named "{column}"{did_you_mean(column, known)}; there are: '
                f"{', '.join(known)}"
            )
    plan = _usual(InputPlan(asked.kind, asked.columns, "asked for", pick=asked.pick), asked.size or size)
    if asked.kind == "text" and asked.max_length is not None:
        plan = plan._replace(preprocess=TextPreprocess(max_length=asked.max_length))
    if asked.kind == "audio" and asked.seconds is not None:
        plan = plan._replace(preprocess=AudioPreprocess(seconds=asked.seconds))
    return plan


def _usual(plan: InputPlan, size: int) -> InputPlan:
    if plan.kind == "image" and plan.preprocess is None:
        return plan._replace(preprocess=ImagePreprocess(size=size, fit="squash", decoding="fast"))
    return plan


def _texts(train: Manifest, features: Features) -> Iterator[str]:
    """Every text of the training rows, for learning a tokenizer."""
    for config in features.inputs.values():
        if isinstance(config, TextInput):
            yield from (text for text in joined(Columns(train), config).to_pylist() if text)


def _resolved_model(
    recipe: MultimodalRecipe, config: Any, plans: Mapping[str, InputPlan], features: Features
) -> MultimodalRecipe:
    """The recipe with the model and the inputs that were chosen."""
    model = recipe.model.model_copy(
        update={
            "encoders": config.encoders,
            "fusion": config.fusion,
            "heads": config.heads.targets,
            "sharing": config.heads.sharing,
            "input_dropout": config.input_dropout,
        }
    )
    inputs = {name: _columns(plan, features.inputs.get(name)) for name, plan in plans.items()}
    return recipe.model_copy(update={"model": model, "data": recipe.data.model_copy(update={"inputs": inputs})})


def _columns(plan: InputPlan, settled: InputConfig | None) -> InputColumns:
    settings: dict[str, Any] = {}
    match getattr(settled, "preprocess", plan.preprocess):
        case ImagePreprocess(size=size):
            settings = {"size": size}
        case TextPreprocess(max_length=longest):
            settings = {"max_length": longest}
        case AudioPreprocess(seconds=seconds):
            settings = {"seconds": seconds}
    return InputColumns(kind=plan.kind, columns=plan.columns, pick=plan.pick, **settings)


def read_table(config: MultimodalData) -> Manifest:
    """The recipe's table.

    Raises:
        ConfigError: the recipe names none.
        DataError: it cannot be read.
    """
    if config.table is None:
        raise ConfigError("data.table is missing: which table? (`--table rows.csv`, or data.table=rows.csv)")
    manifest = Manifest.read(config.table, split_column=config.split, images=config.images)
    return manifest.select(~manifest.holds(config.exclude)) if config.exclude else manifest


def divide_rows(manifest: Manifest, recipe: MultimodalRecipe) -> Rows:
    """Rows to train on, to validate on, and to keep for the report.

    Raises:
        DataError: the split column has no training rows.
    """
    data, seed = recipe.data, recipe.trainer.seed
    # Rows that show one picture stay together: a picture known from training tells nothing of new ones.
    numbers = picture_numbers(manifest) if manifest.image and data.group is None else np.arange(len(manifest))
    test = _test_places(manifest, numbers, recipe)
    rest = np.setdiff1d(np.arange(len(manifest)), test)
    division = divide(manifest.select(rest), numbers[rest], data, seed)
    kept = f"; {len(test):,} rows kept for the report" if len(test) else ""
    return Rows(
        train=manifest.select(rest[division.train]),
        val=manifest.select(rest[division.val]) if len(division.val) else None,
        test=manifest.select(test) if len(test) else None,
        reason=division.reason + kept,
    )


def _test_places(manifest: Manifest, numbers: Places, recipe: MultimodalRecipe) -> Places:
    data = recipe.data
    if manifest.split_column is not None and manifest.splits():
        # The same values as `divide` reads, told apart by their names.
        values = manifest.column(manifest.split_column).cast(pa.string()).to_pylist()
        return np.flatnonzero([value in data.test for value in values])
    if not data.test_fraction or not data.targets:
        return np.empty(0, np.int64)
    held = data.model_copy(update={"val_fraction": data.test_fraction, "val_limit": len(manifest)})
    return divide(manifest, numbers, held, recipe.trainer.seed + 1).val


def _resolved_trainer(recipe: MultimodalRecipe, rows: int, choices: list[Choice]) -> tuple[MultimodalRecipe, int, int]:
    """The recipe with batch size, epochs and precision chosen; batch size and epochs beside it.

    Raises:
        DataError: there are fewer than two rows, or than processes.
    """
    trainer = recipe.trainer
    asked = trainer.batch_size or choose.batch_size(rows)
    most = rows - rows % trainer.devices
    size = min(asked - asked % trainer.devices, most)
    if size < 2:
        raise DataError(f"training needs at least 2 rows and one a process, got {rows} for {trainer.devices}")
    if trainer.batch_size is None:
        choices.append(Choice("trainer.batch_size", str(size), f"{rows:,} training rows"))
    elif size < asked:
        choices.append(
            Choice("trainer.batch_size", str(size), f"in place of {asked}: there are {rows:,} training rows")
        )
    epochs = trainer.epochs or choose.epochs(rows)
    if trainer.epochs is None and trainer.steps is None:
        choices.append(Choice("trainer.epochs", str(epochs), f"{rows:,} training rows"))
    changes: dict[str, Any] = {
        "precision": resolve_precision(trainer.precision, trainer.accelerator),
        "batch_size": size,
        "epochs": epochs,
    }
    if trainer.metric == "score" and not recipe.data.targets:
        changes["metric"] = "loss"
    return recipe.model_copy(update={"trainer": trainer.model_copy(update=changes)}), size, epochs
