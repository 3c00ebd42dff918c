"""The training step and the validation of a CLIP, in the form that Lightning asks for.

Shapes: B pairs of a step, over all processes; b of this process; D width of the shared space.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from polymodal.metrics.retrieval import pairs_report
from polymodal.models.clip import Clip
from polymodal.objectives import Objective, Pairs, Step, belongs
from polymodal.preprocess import ImagePreprocess
from polymodal.train.batches import PairBatch, PictureBatch, TextBatch
from polymodal.train.chunked import in_chunks
from polymodal.train.distributed import gather
from polymodal.train.locked import Known
from polymodal.train.recipe import TrainerConfig
from polymodal.train.training import Training
from polymodal.types import ImageTextBatch, Text

NONE = torch.zeros(0, dtype=torch.int64)
NO_BATCH = ImageTextBatch(NONE, Text(NONE, NONE), NONE)  # validation has vectors only


class ClipTraining(Training):
    """A CLIP, its objectives and its trainer's settings.

    `measured` has loss, and R@1, R@5, R@10 as the mean of both directions; `report` has them by direction.
    """

    model: Clip

    def __init__(
        self,
        model: Clip,
        objectives: Sequence[Objective],
        config: TrainerConfig,
        preprocess: ImagePreprocess,
        total_steps: int,
    ) -> None:
        super().__init__(model, config, total_steps)
        self.objectives = list(objectives)
        self.preprocess = preprocess
        self.known_images: Known | None = None  # of towers that are locked, where that saves running them
        self.known_texts: Known | None = None
        self._vectors: tuple[list[Tensor], list[Tensor]] = ([], [])  # of a validation: pictures, texts
        self._places: tuple[list[Tensor], list[Tensor]] = ([], [])

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        loss, self.shown = self._loss(Step(self.model, batch.pairs, lambda: self._pairs(batch)))
        return self.finite(loss, batch.pairs.rows.tolist)

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)
        self.model.clamp_scale()

    def embed_image(self, pixels: Tensor, numbers: Tensor) -> Tensor:
        """Unit vectors (b, D), float32 at the least, of pixels (b, 3, H, W) uint8, the pictures `numbers` (b,)."""
        if self.known_images is not None:
            return normalize(self.model.image_projection(self.known_images(numbers)).float(), dim=-1)
        normal = self.preprocess.normalize(pixels)
        return in_chunks(self.model.embed_image, normal, self.config.chunk_size, self.model.image_encoder).float()

    def embed_text(self, text: Text, numbers: Tensor) -> Tensor:
        """Unit vectors (b, D), float32 at the least, of texts (b, L), the captions `numbers` (b,)."""
        if self.known_texts is not None:
            return normalize(self.model.text_projection(self.known_texts(numbers)).float(), dim=-1)
        return in_chunks(self.model.embed_text, text, self.config.chunk_size, self.model.text_encoder).float()

    def _pairs(self, batch: PairBatch) -> Pairs:
        image = gather(self.embed_image(batch.pairs.pixels, batch.pictures))
        text = gather(self.embed_text(batch.pairs.text, batch.captions))
        same = belongs(gather(batch.pictures), gather(batch.captions))
        return Pairs(image, text, self.model.log_scale.exp(), self.model.bias, same)

    def _loss(self, step: Step) -> tuple[Tensor, dict[str, Tensor]]:
        results = [(objective.weight, objective.step(step)) for objective in self.objectives]
        loss = torch.stack([weight * result.loss for weight, result in results]).sum()
        shown = {name: value for _, result in results for name, value in result.log.items()}
        return loss, {"loss": loss.detach()} | shown

    # -----------------------------------------------------------------------------------------------------------------
    # Validation: all pictures against all captions

    def validation_step(self, batch: PictureBatch | TextBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if isinstance(batch, PictureBatch):
            vectors, kind = self.embed_image(batch.pixels, batch.pictures), 0
        else:
            vectors, kind = self.embed_text(batch.text, batch.captions), 1
        self._vectors[kind].append(gather(vectors).cpu())
        self._places[kind].append(gather(batch.places).cpu())

    def on_validation_epoch_end(self) -> None:
        image, text = (_in_order(*kind) for kind in zip(self._vectors, self._places, strict=True))
        for kind in (*self._vectors, *self._places):
            kind.clear()
        pairs: Tensor = self.trainer.datamodule.belong  # type: ignore[attr-defined]
        self.report = pairs_report(image, text, pairs)
        recalls = {
            name: (self.report["image_to_text"][name] + self.report["text_to_image"][name]) / 2
            for name in ("R@1", "R@5", "R@10")
        }
        self.measured = {"loss": self._validation_loss(image, text, pairs), **recalls}
        self.log_dict(self.measured, logger=False)  # for early stopping; the log has its own way

    def _validation_loss(self, image: Tensor, text: Tensor, belong: Tensor) -> float:
        """Of each picture with its first caption, as many at a time as in training."""
        first = torch.full((len(image),), len(text)).scatter_reduce(0, belong[:, 1], belong[:, 0], "amin")
        scale, bias = self.model.log_scale.exp().cpu(), None if self.model.bias is None else self.model.bias.cpu()
        total = 0.0
        for rows in torch.arange(len(image)).split(self.config.batch_size):
            pairs = Pairs(image[rows], text[first[rows]], scale, bias, belongs(rows, first[rows]))
            step = Step(self.model, NO_BATCH, partial(_given, pairs))
            total += len(rows) * self._loss(step)[0].item()
        return total / len(image)


def _given(pairs: Pairs) -> Pairs:
    return pairs


def _in_order(vectors: list[Tensor], places: list[Tensor]) -> Tensor:
    """Vectors by place; where processes have worked out the same place twice, one of the two equal ones."""
    place = torch.cat(places)
    ordered = torch.empty(int(place.max()) + 1, vectors[0].shape[1])
    ordered[place] = torch.cat(vectors)
    return ordered
