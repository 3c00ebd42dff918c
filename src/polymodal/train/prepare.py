"""From a recipe to everything that a run needs: rows, model, batches, and the plan that is shown first."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polymodal.data.augment import Augment
from polymodal.data.cache import digest
from polymodal.data.dataset import PairDataset, Pictures
from polymodal.data.faults import Fault
from polymodal.data.manifest import Manifest
from polymodal.data.pixel_cache import pictures_for
from polymodal.errors import ConfigError, DataError
from polymodal.objectives import Objective
from polymodal.text import Tokenizer
from polymodal.train.build import Built, build, choose_trained, resolve_precision, training_captions
from polymodal.train.data import EachCaption, EachPicture, NoPictures, PairData, TrainRows, Validation
from polymodal.train.locked import fits, is_locked
from polymodal.train.recipe import DataConfig, NewModel, Recipe
from polymodal.train.rows import divide, picture_numbers, usable

Say = Callable[[str], None]


@dataclass
class Prepared:
    recipe: Recipe  # resolved: every number that was chosen is in it
    train: Manifest
    val: Manifest | None
    divided: str  # how train and val were told apart
    faults: list[Fault]  # of rows that are left out
    numbers: tuple[np.ndarray, np.ndarray]  # of the pictures of train and val
    built: Built
    objectives: Sequence[Objective]
    epoch_steps: int
    total_steps: int
    period: int  # steps between two validations

    def plan(self) -> dict[str, Any]:
        """What is about to happen, as plain values."""
        weights = list(self.built.model.parameters())
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        trainer = self.recipe.trainer
        return {
            "recipe": self.recipe.name,
            "table": self.recipe.data.table,
            "rows": {
                "train": len(self.train),
                "val": len(self.val) if self.val else 0,
                "left_out": len({fault.row for fault in self.faults}),
                "divided_by": self.divided,
            },
            "image": self.train.image,
            "text": list(self.train.text),
            "parameters": {"trained": trained, "frozen": sum(weight.numel() for weight in weights) - trained},
            "objectives": [objective.kind for objective in self.recipe.objectives],
            "steps": self.total_steps,
            "epochs": round(self.total_steps / self.epoch_steps, 2),
            "batch_size": trainer.batch_size,
            "device": device_name(trainer.accelerator, trainer.devices),
            "precision": trainer.precision,
        }


def prepare(recipe: Recipe, say: Say, tokenizer: Tokenizer | None = None) -> Prepared:
    """Read the table, leave out what cannot be used, build the model, and resolve what the recipe leaves open.

    Raises:
        ConfigError, DataError, ArtifactError: the recipe, the table or a checkpoint cannot be used.
    """
    manifest = read_table(recipe.data)
    for note in manifest.notes:
        say(note)
    manifest, faults = usable(manifest, say)
    if len(manifest) == 0:
        first = f"; first: {faults[0]}" if faults else ""
        raise DataError(f"{manifest.source}: no row can be used, {len(faults)} have faults{first}")
    pictures = picture_numbers(manifest)
    division = divide(manifest, pictures, recipe.data, recipe.trainer.seed)
    train = manifest.select(division.train)
    val = manifest.select(division.val) if len(division.val) else None

    recipe = _resolve_sizes(recipe, len(train), say)
    built = build(recipe, lambda: training_captions(train), len(np.unique(pictures[division.train])), tokenizer)
    built = built._replace(preprocess=built.preprocess.with_decoding(recipe.data.decoding))
    objectives = [objective.build() for objective in recipe.objectives]
    choose_trained(built.model, objectives, recipe.trainer)
    epoch_steps = len(train) // recipe.trainer.batch_size
    total_steps = recipe.trainer.steps or recipe.trainer.epochs * epoch_steps
    return Prepared(
        recipe=_resolve_model(recipe, built),
        train=train,
        val=val,
        divided=division.reason,
        faults=faults,
        numbers=(pictures[division.train], pictures[division.val]),
        built=built,
        objectives=objectives,
        epoch_steps=epoch_steps,
        total_steps=total_steps,
        period=min(recipe.trainer.val_every or epoch_steps, total_steps),
    )


def read_table(config: DataConfig) -> Manifest:
    """The recipe's table with its columns.

    Raises:
        ConfigError: the recipe names no table.
        DataError: it cannot be read, or has no pictures or no texts.
    """
    if config.table is None:
        raise ConfigError("data.table is missing: which table? (`--table pairs.csv`, or data.table=pairs.csv)")
    manifest = Manifest.read(
        config.table, image=config.image, text=config.text, split_column=config.split, images=config.images
    )
    for wanted, found, option in (("pictures", manifest.image, "image"), ("texts", manifest.text, "text")):
        if not found:
            there = ", ".join(f"{column.name} ({column.modality})" for column in manifest.columns)
            raise DataError(f"{config.table}: no column holds {wanted}; set data.{option} (there are: {there})")
    return manifest.select(~manifest.holds(config.exclude)) if config.exclude else manifest


def _resolve_sizes(recipe: Recipe, rows: int, say: Say) -> Recipe:
    trainer = recipe.trainer
    changes: dict[str, Any] = {"precision": resolve_precision(trainer.precision, trainer.accelerator)}
    if rows < trainer.batch_size:
        smaller = rows - rows % trainer.devices
        if smaller < 2:
            raise DataError(f"training needs at least 2 rows a process, got {rows} for {trainer.devices}")
        say(f"trainer.batch_size is {smaller} in place of {trainer.batch_size}: there are {rows} training rows")
        changes["batch_size"] = smaller
    return recipe.model_copy(update={"trainer": trainer.model_copy(update=changes)})


def _resolve_model(recipe: Recipe, built: Built) -> Recipe:
    changes: dict[str, Any] = {"preprocess": built.preprocess}
    if isinstance(recipe.model, NewModel):
        sizes = built.model.config.to_dict() | {"init": recipe.model.init.to_dict()}
        changes["model"] = NewModel.parse(sizes, "model")
    return recipe.model_copy(update=changes)


def known_towers(prepared: Prepared) -> tuple[bool, bool]:
    """Whether the image tower, and the text tower, is locked and always sees the same, and its vectors fit."""
    recipe, model = prepared.recipe, prepared.built.model
    if not recipe.trainer.cache_locked:
        return False, False
    augment = recipe.data.augment
    image = is_locked(model.image_encoder) and augment is None
    text = is_locked(model.text_encoder) and (augment is None or not (augment.text.dropout or augment.text.swap))
    captions = sum(1 for part in (prepared.train, prepared.val) if part for _ in training_captions(part)) if text else 0
    pictures = len(np.union1d(*prepared.numbers))
    return image and fits(pictures, model.config.image.width), text and fits(captions, model.config.text.width)


def batches(prepared: Prepared, say: Say, *, look_at_pictures: bool) -> PairData:
    """The run's batches; with a locked image tower whose vectors are known, training needs no pixels."""
    recipe, (train_numbers, val_numbers) = prepared.recipe, prepared.numbers
    preprocess, tokenizer, trainer = prepared.built.preprocess, prepared.built.tokenizer, recipe.trainer
    cache, epochs = recipe.data.cache, math.ceil(prepared.total_steps / prepared.epoch_steps)
    augment = recipe.data.augment

    def pictures(manifest: Manifest, augment: Augment | None, say: Say) -> Pictures:
        if not look_at_pictures:
            return NoPictures()
        return pictures_for(manifest, preprocess.image, augment, cache=cache, epochs=epochs, say=say)

    train = PairDataset(
        prepared.train,
        tokenizer,
        preprocess,
        augment,
        trainer.seed,
        pictures(prepared.train, augment, say),
    )
    val = belong = None
    if prepared.val is not None:
        validation = Validation(prepared.val, val_numbers)
        shown = pictures(prepared.val, None, lambda line: None)
        val = (
            EachPicture(shown, validation.rows, validation.numbers),
            EachCaption(validation.captions, tokenizer, preprocess.text),
        )
        belong = validation.pairs
    return PairData(
        TrainRows(train, train_numbers),
        val,
        belong,
        batch_size=trainer.batch_size,
        period=prepared.period,
        seed=trainer.seed,
        workers=_workers(recipe.data, look_at_pictures),
    )


def _workers(config: DataConfig, look_at_pictures: bool) -> int:
    # On a GPU the processor is free to decode; without one, decoding and computing share the cores.
    if config.workers is not None:
        return config.workers
    if not look_at_pictures or not torch.cuda.is_available():
        return 0
    return min(8, max(1, (os.cpu_count() or 1) - 1))


def device_name(accelerator: str, devices: int) -> str:
    """`cpu`, `cuda`, `2 x cpu`, ..."""
    if accelerator == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    else:
        kind = {"gpu": "cuda"}.get(accelerator, accelerator)
    return kind if devices == 1 else f"{devices} x {kind}"


def table_state(prepared: Prepared) -> dict[str, Any]:
    """What a resumed run must find unchanged."""
    train, val = prepared.train, prepared.val
    texts = [train.captions(row)[:1] for row in range(0, len(train), max(1, len(train) // 1000))]
    return {
        "table": str(Path(train.source)),
        "train": len(train),
        "val": len(val) if val else 0,
        "sample": digest(texts),
        "rows": digest([train.row_numbers.tolist(), val.row_numbers.tolist() if val else []]),
    }
