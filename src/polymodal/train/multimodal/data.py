"""Rows of a table as the batches of training and validation."""

from collections.abc import Sequence
from typing import Protocol

from numpy.typing import ArrayLike
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from polymodal.train.batches import EpochBatches, Key, Shares
from polymodal.train.data import loader
from polymodal.types import Batch


class Rows(Protocol):
    """`FeatureRows`, or `LockedRows` on top of them."""

    def __len__(self) -> int: ...

    def batch(self, places: ArrayLike, epoch: int = 0) -> Batch: ...


class TrainBatches(Dataset[Batch]):
    """Batches by (epoch, place)."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        return self.rows.batch([place for _, place in keys], epoch=keys[0][0])


class ValidationBatches(Dataset[Batch]):
    """Every row once."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __getitems__(self, places: Sequence[int]) -> Batch:
        return self.rows.batch(list(places))


class FeatureData(LightningDataModule):
    """What the trainer asks for batches."""

    def __init__(
        self,
        train: Rows,
        val: Rows | None,
        *,
        batch_size: int,
        period: int,
        seed: int,
        workers: int,
    ) -> None:
        super().__init__()
        self.train_rows, self.val_rows = train, val
        self.batch_size, self.period, self.seed, self.workers = batch_size, period, seed, workers

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        trainer = self.trainer
        order = EpochBatches(
            len(self.train_rows),
            self.batch_size,
            self.period,
            self.seed,
            lambda: trainer.global_step,
            trainer.global_rank,
            trainer.world_size,
        )
        return loader(TrainBatches(self.train_rows), order, self.workers)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        assert self.trainer is not None
        if self.val_rows is None:
            return []
        shares = Shares(len(self.val_rows), self.batch_size, self.trainer.global_rank, self.trainer.world_size)
        return [loader(ValidationBatches(self.val_rows), shares, self.workers)]
