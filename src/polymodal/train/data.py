"""Rows of a table as the batches of training and validation."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from polymodal.data.dataset import PairDataset, Pictures
from polymodal.data.decode import as_tensor
from polymodal.data.manifest import Manifest
from polymodal.preprocess import TextPreprocess
from polymodal.text import Tokenizer
from polymodal.train.batches import EpochBatches, Key, PairBatch, PictureBatch, Shares, TextBatch, caption_key

Places = NDArray[np.int64]


class TrainRows(Dataset[PairBatch]):
    """Batches of pairs by (epoch, place)."""

    def __init__(self, pairs: PairDataset, numbers: Places) -> None:
        self.pairs = pairs
        self.numbers = numbers  # (rows,) of the row's picture

    def __getitems__(self, keys: Sequence[Key]) -> PairBatch:
        pairs = [self.pairs.pair(place, epoch) for epoch, place in keys]
        return PairBatch(
            pairs=self.pairs.collate(pairs),
            pictures=torch.tensor(self.numbers[[place for _, place in keys]]),
            captions=torch.tensor([caption_key(pair.caption) for pair in pairs]),
        )


class EachPicture(Dataset[PictureBatch]):
    """Every picture once, without augmentation."""

    def __init__(self, pictures: Pictures, rows: Sequence[int], numbers: Sequence[int]) -> None:
        self.pictures = pictures
        self.rows = rows  # one that shows the picture, as `pictures` counts
        self.numbers = numbers  # of the pictures

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, places: Sequence[int]) -> PictureBatch:
        return PictureBatch(
            pixels=torch.stack([as_tensor(self.pictures.picture(self.rows[place])) for place in places]),
            pictures=torch.tensor([self.numbers[place] for place in places]),
            places=torch.tensor(places),
        )


class EachCaption(Dataset[TextBatch]):
    """Every caption as it stands."""

    def __init__(self, captions: Sequence[str], tokenizer: Tokenizer, preprocess: TextPreprocess) -> None:
        self.captions, self.tokenizer, self.preprocess = captions, tokenizer, preprocess

    def __len__(self) -> int:
        return len(self.captions)

    def __getitems__(self, places: Sequence[int]) -> TextBatch:
        captions = [self.captions[place] for place in places]
        return TextBatch(
            text=self.tokenizer(captions, self.preprocess),
            captions=torch.tensor([caption_key(caption) for caption in captions]),
            places=torch.tensor(places),
        )


class NoPictures:
    """Stands for pictures that nobody looks at, because the vectors of a locked tower are known."""

    def picture(self, row: int) -> Image.Image:
        return Image.new("RGB", (1, 1))


class Validation:
    """The pictures and captions of the validation rows, each once, and which belong together."""

    def __init__(self, manifest: Manifest, numbers: Places) -> None:
        """
        Args:
            numbers: (rows,) of the rows' pictures.
        """
        self.manifest = manifest
        self.rows: list[int] = []  # the first row of each picture
        self.numbers: list[int] = []  # of each picture
        captions: dict[str, int] = {}  # each once: a caption that stands twice would be its own rival
        pairs: set[tuple[int, int]] = set()
        place_of: dict[int, int] = {}
        for row, number in enumerate(numbers.tolist()):
            place = place_of.setdefault(number, len(place_of))
            if place == len(self.rows):
                self.rows.append(row)
                self.numbers.append(number)
            for caption in manifest.captions(row):
                pairs.add((captions.setdefault(caption, len(captions)), place))
        self.captions = list(captions)
        self.pairs = torch.tensor(sorted(pairs))  # (P, 2) places of a caption and a picture that belong together


class PairData(LightningDataModule):
    """What the trainer asks for batches."""

    def __init__(
        self,
        train: TrainRows,
        val: tuple[EachPicture, EachCaption] | None,
        belong: Tensor | None,
        *,
        batch_size: int,
        period: int,
        seed: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.train_rows, self.val_sets, self.belong = train, val, belong
        self.batch_size, self.period, self.seed, self.workers = batch_size, period, seed, workers

    def train_dataloader(self) -> DataLoader[PairBatch]:
        assert self.trainer is not None
        trainer = self.trainer
        order = EpochBatches(
            rows=len(self.train_rows.numbers),
            batch_size=self.batch_size,
            period=self.period,
            seed=self.seed,
            step=lambda: trainer.global_step,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        return loader(self.train_rows, order, self.workers)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        assert self.trainer is not None
        world, rank = self.trainer.world_size, self.trainer.global_rank
        return [
            loader(each, Shares(len(each), max(1, self.batch_size // world), rank, world), self.workers)
            for each in self.val_sets or ()
        ]


def loader(rows: Dataset[Any], order: Any, workers: int) -> DataLoader[Any]:
    """Whole batches, as `rows.__getitems__` makes them, in the order of a batch sampler."""
    return DataLoader(
        rows,
        batch_sampler=order,
        collate_fn=_as_it_is,
        num_workers=workers,
        worker_init_fn=_quiet_worker,
        pin_memory=torch.cuda.is_available(),
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def _quiet_worker(number: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = (
        "false"  # a worker is one thread; and without it the library warns of the fork
    )
    torch.set_num_threads(1)
