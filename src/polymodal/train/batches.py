"""What training and validation batches are made of, and in which order.

Everything random is drawn from (seed, epoch, row), never from a running generator: the batch of step k is the same
whether the run came there in one go or was stopped and resumed, and whatever number of processes decode.
"""

from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler

from polymodal.types import ImageTextBatch, Text

Key = tuple[int, int]  # epoch, place of the row among the training rows


class PairBatch(NamedTuple):
    pairs: ImageTextBatch
    pictures: Tensor  # (b,) int64, equal for equal pictures
    captions: Tensor  # (b,) int64, equal for equal captions


class PictureBatch(NamedTuple):
    """Pictures of the validation, each once."""

    pixels: Tensor  # (b, 3, H, W) uint8
    pictures: Tensor  # (b,) int64, as in `PairBatch`
    places: Tensor  # (b,) int64, 0 to the number of pictures - 1


class TextBatch(NamedTuple):
    """Captions of the validation, all of them."""

    text: Text
    captions: Tensor  # (b,) int64, as in `PairBatch`
    places: Tensor  # (b,) int64, 0 to the number of captions - 1


class EpochBatches(Sampler[list[Key]]):
    """The rest of the current period's batches, from the step at which training stands.

    An epoch takes every row once in an order drawn from (seed, epoch); rows that do not fill a last batch wait for
    another epoch's order. A period is what lies between two validations, usually an epoch.

    Args:
        rows: number of training rows.
        batch_size: pairs of a step over all processes; each process takes its share.
        period: steps between two validations.
        step: gives the number of steps already made.
    """

    def __init__(
        self, rows: int, batch_size: int, period: int, seed: int, step: Callable[[], int], rank: int = 0, world: int = 1
    ) -> None:
        self.rows, self.batch_size, self.period, self.seed = rows, batch_size, period, seed
        self.step, self.rank, self.world = step, rank, world

    @property
    def epoch_steps(self) -> int:
        return self.rows // self.batch_size

    def __len__(self) -> int:
        return self.period

    def __iter__(self) -> Iterator[list[Key]]:
        first = self.step()
        known, order = -1, np.empty(0, np.int64)
        for step in range(first, first - first % self.period + self.period):
            epoch, nth = divmod(step, self.epoch_steps)
            if epoch != known:
                known, order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.rows)
            batch = order[nth * self.batch_size : (nth + 1) * self.batch_size]
            yield [(epoch, int(place)) for place in batch[self.rank :: self.world]]


class Shares(Sampler[list[int]]):
    """0 to count - 1 in batches, divided among processes; all processes get equally many batches of equal sizes."""

    def __init__(self, count: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        places = np.arange(-(-count // world) * world) % count  # some twice, so that the shares are equal
        own = places[rank::world]
        self.batches: list[list[int]] = [own[at : at + batch_size].tolist() for at in range(0, len(own), batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def caption_key(caption: str) -> int:
    """63 bits that name a caption: two different ones share them once in 10^18."""
    return int.from_bytes(blake2b(caption.encode(), digest_size=8).digest(), "little") >> 1
