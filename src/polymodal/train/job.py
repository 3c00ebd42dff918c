"""What `run` carries out: all between a recipe and an artifact that differs from one kind of model to another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pytorch_lightning import Callback, LightningDataModule
from torch import Tensor

from polymodal.data.faults import Fault
from polymodal.train.recipe import RunConfig
from polymodal.train.training import Training


class Job(Protocol):
    """A recipe resolved on its table."""

    @property
    def recipe(self) -> RunConfig: ...

    @property
    def faults(self) -> Sequence[Fault]:
        """Of the table's rows, with what became of them."""

    @property
    def fate(self) -> str:
        """What becomes of rows with faults, as in "3 rows are left out"."""

    @property
    def epoch_steps(self) -> int: ...

    @property
    def total_steps(self) -> int: ...

    @property
    def period(self) -> int:
        """Steps between two validations."""

    @property
    def validates(self) -> bool: ...

    def plan(self) -> dict[str, Any]:
        """What is about to happen, as plain values."""

    def state(self) -> dict[str, Any]:
        """What a resumed run must find unchanged."""

    def begin(self, folder: Path) -> None:
        """Leave in the run's folder what a resumed run needs."""

    def training(self, *, fresh: bool) -> tuple[Training, LightningDataModule]:
        """The module and its batches; `fresh` when the run does not go on from a checkpoint."""

    def callbacks(self) -> list[Callback]:
        """What watches this kind of training, besides what watches every run."""

    def finish(self, folder: Path, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        """Write the artifact of the best weights into the run's folder."""
