"""Rows of unequal length in one flat array: token ids of a hundred thousand texts, without an object for each.

Shapes: N rows; V values of all of them; B rows of a batch; L the longest of those.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


@dataclass(frozen=True)
class Ragged:
    values: NDArray[Any]  # (V,)
    ends: NDArray[np.int64]  # (N,) where each row ends in `values`
    starts: NDArray[np.int64]  # (N,)

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any] | NDArray[Any]], dtype: DTypeLike) -> "Ragged":
        arrays = [np.asarray(row, dtype) for row in rows]
        ends = np.cumsum([len(array) for array in arrays], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends])[: len(ends)]
        return cls(np.concatenate([np.zeros(0, dtype), *arrays]), ends, starts)

    def take(self, rows: NDArray[np.int64]) -> "Ragged":
        """Row i of the result is row `rows[i]`; the values are shared, not copied."""
        return Ragged(self.values, self.ends[rows], self.starts[rows])

    @property
    def lengths(self) -> NDArray[np.int64]:
        return self.ends - self.starts

    def padded(self, places: NDArray[np.int64], fill: int | float) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(B, L) values, `fill` behind each row's end, and (B, L) where they are; L is at least 1."""
        starts, lengths = self.starts[places], self.lengths[places]
        steps = np.arange(max(1, lengths.max(initial=0)))
        mask = steps < lengths[:, None]
        padded = np.full(mask.shape, fill, self.values.dtype)
        padded[mask] = self.values[(starts[:, None] + steps)[mask]]
        return padded, mask
