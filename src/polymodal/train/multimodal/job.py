"""What a run carries out to train a model with several inputs."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule
from torch import Tensor

from polymodal import artifact
from polymodal.card import Card
from polymodal.data.faults import Fault
from polymodal.features import Features
from polymodal.layers.lora import merge_lora
from polymodal.train.multimodal.calibrate import with_temperatures
from polymodal.train.multimodal.data import FeatureData, Rows
from polymodal.train.multimodal.locked import locked_inputs, look_once
from polymodal.train.multimodal.module import MultimodalTraining
from polymodal.train.multimodal.prepare import MultimodalPrepared
from polymodal.train.multimodal.recipe import MultimodalRecipe

ROWS = "rows.csv"  # in the run's folder; `evaluate` reads it


class MultimodalJob:
    fate = "have cells that cannot be read and count as empty"

    def __init__(self, prepared: MultimodalPrepared) -> None:
        self.prepared = prepared
        self._val: Rows | None = prepared.val
        self.epoch_steps, self.total_steps, self.period = prepared.epoch_steps, prepared.total_steps, prepared.period

    @property
    def recipe(self) -> MultimodalRecipe:
        return self.prepared.recipe

    @property
    def faults(self) -> Sequence[Fault]:
        return self.prepared.faults

    @property
    def validates(self) -> bool:
        return self.prepared.rows.val is not None

    def plan(self) -> dict[str, Any]:
        return self.prepared.plan()

    def state(self) -> dict[str, Any]:
        return self.prepared.state()

    def begin(self, folder: Path) -> None:
        if self.prepared.tokenizer is not None:
            self.prepared.tokenizer.save(folder)
        self._write_rows(folder / ROWS)

    def _write_rows(self, file: Path) -> None:
        """Which row is for what, so that an evaluation knows those that were kept apart."""
        rows = self.prepared.rows
        parts = {"train": rows.train, "val": rows.val, "test": rows.test}
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("row", "split"))
            for split, part in parts.items():
                writer.writerows((number, split) for number in (part.row_numbers.tolist() if part is not None else ()))

    def training(self, *, fresh: bool) -> tuple[MultimodalTraining, LightningDataModule]:
        prepared, trainer = self.prepared, self.recipe.trainer
        module = MultimodalTraining(
            prepared.model, prepared.objectives, trainer, prepared.features, prepared.total_steps
        )
        train, val = self._rows()
        data = FeatureData(
            train,
            val,
            batch_size=prepared.batch_size,
            period=self.period,
            seed=trainer.seed,
            workers=self._workers(),
        )
        return module, data

    def _rows(self) -> tuple[Rows, Rows | None]:
        """Rows to train on and to validate on; what locked encoders say of them is worked out here."""
        prepared = self.prepared
        parts = [prepared.train, *([prepared.val] if prepared.val else [])]
        towers = locked_inputs(prepared.model, prepared.features, self.recipe)
        train, *val = look_once(towers, parts) if towers else parts
        self._val = val[0] if val else None
        return train, self._val

    def _workers(self) -> int:
        # On a GPU the processor is free to decode; without one, decoding and computing share the cores.
        if self.recipe.data.workers is not None:
            return self.recipe.data.workers
        return min(8, max(1, (os.cpu_count() or 1) - 1)) if torch.cuda.is_available() else 0

    def callbacks(self) -> list[Callback]:
        return []

    def finish(self, folder: Path, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        prepared, recipe = self.prepared, self.recipe
        prepared.model.load_state_dict(weights)
        merge_lora(prepared.model)
        features = self._calibrated()
        targets = ", ".join(features.targets)
        artifact.save(
            folder,
            model=prepared.model.eval(),
            tokenizer=prepared.tokenizer,
            preprocess=features,
            metrics=metrics,
            recipe=recipe.to_dict(),
            card=Card(
                description=f"Predicts {targets} from {', '.join(prepared.features.inputs)}. "
                f"Trained on {len(prepared.rows.train):,} rows of {Path(prepared.rows.train.source).name}."
                if targets
                else f"Pre-trained on {len(prepared.rows.train):,} rows of {Path(prepared.rows.train.source).name}."
            ),
        )

    def _calibrated(self) -> Features:
        """The features with temperatures by which the targets' probabilities mean what they say."""
        prepared = self.prepared
        if self._val is None:
            return prepared.features
        return with_temperatures(prepared.model, prepared.features, self._val)
