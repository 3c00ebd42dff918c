"""What a run carries out to train a CLIP on pairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningDataModule
from torch import Tensor

from polymodal import artifact
from polymodal.card import Card
from polymodal.data.faults import Fault
from polymodal.layers.lora import merge_lora
from polymodal.train.console import say
from polymodal.train.log import AtChance
from polymodal.train.module import ClipTraining
from polymodal.train.once import meet, vectors_of_captions, vectors_of_pictures
from polymodal.train.prepare import Prepared, batches, known_towers, table_state
from polymodal.train.recipe import Recipe


class ClipJob:
    fate = "are left out"
    training_class: type[ClipTraining] = ClipTraining

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.epoch_steps, self.total_steps, self.period = prepared.epoch_steps, prepared.total_steps, prepared.period

    @property
    def recipe(self) -> Recipe:
        return self.prepared.recipe

    @property
    def faults(self) -> Sequence[Fault]:
        return self.prepared.faults

    @property
    def validates(self) -> bool:
        return self.prepared.val is not None

    def plan(self) -> dict[str, Any]:
        return self.prepared.plan()

    def state(self) -> dict[str, Any]:
        return table_state(self.prepared)

    def begin(self, folder: Path) -> None:
        self.prepared.built.tokenizer.save(folder)

    def training(self, *, fresh: bool) -> tuple[ClipTraining, LightningDataModule]:
        prepared, built = self.prepared, self.prepared.built
        module = self.training_class(
            built.model, prepared.objectives, prepared.recipe.trainer, built.preprocess.image, prepared.total_steps
        )
        known_image, known_text = known_towers(prepared)
        if known_image:
            module.known_images = vectors_of_pictures(prepared)
        if known_text:
            module.known_texts = vectors_of_captions(prepared)
        if fresh:
            meet(prepared, module.known_images, module.known_texts)
        return module, batches(prepared, say, look_at_pictures=not known_image)

    def callbacks(self) -> list[Callback]:
        if all(objective.kind != "info_nce" for objective in self.recipe.objectives):
            return []
        return [AtChance(self.recipe.trainer.batch_size, patience=max(100, self.total_steps // 10))]

    def finish(self, folder: Path, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        built, recipe = self.prepared.built, self.recipe
        built.model.load_state_dict(weights)
        merge_lora(built.model)
        artifact.save(
            folder,
            model=built.model.eval(),
            tokenizer=built.tokenizer,
            preprocess=built.preprocess,
            metrics=metrics,
            recipe=recipe.to_dict(),
            card=Card(
                description=f"Trained by the recipe {recipe.name} on {len(self.prepared.train):,} rows of "
                f"{Path(self.prepared.train.source).name}."
            ),
        )
