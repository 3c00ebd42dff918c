"""Vectors of a locked tower, worked out once: as in LiT, a tower that does not learn need not run in every epoch."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

MOST_BYTES = 2 * 2**30  # of vectors held in memory; above it the tower runs as always


class Known:
    """Pooled vectors by number: of a picture, or of a caption."""

    def __init__(self, numbers: Tensor, pooled: Tensor) -> None:
        """
        Args:
            numbers: (N,) int64, in any order.
            pooled: (N, width).
        """
        self.numbers, order = numbers.cpu().sort()
        self.pooled = pooled.cpu()[order]

    def __call__(self, numbers: Tensor) -> Tensor:
        """(B, width) of (B,)."""
        found = self.pooled[torch.searchsorted(self.numbers, numbers.cpu().contiguous())]
        return found.to(numbers.device)


def is_locked(tower: nn.Module) -> bool:
    """Whether no weight of it learns."""
    return not any(weight.requires_grad for weight in tower.parameters())


def fits(count: int, width: int) -> bool:
    return count * width * 4 <= MOST_BYTES


@torch.no_grad()
def work_out(batches: Iterable[tuple[Tensor, Tensor]], tick: Callable[[int], None]) -> Known:
    """The vectors of all batches.

    Args:
        batches: numbers (b,) and pooled vectors (b, width).
        tick: told how many were added.
    """
    numbers, pooled = [], []
    for number, vectors in batches:
        numbers.append(number)
        pooled.append(vectors.float())
        tick(len(number))
    return Known(torch.cat(numbers), torch.cat(pooled))
