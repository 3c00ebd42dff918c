"""Bootstrap confidence intervals: how far a value would move had other queries been asked."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]

_DRAWN_AT_ONCE = 1 << 22  # 32 MiB of row numbers


class Interval(NamedTuple):
    low: float
    high: float


def bootstrap(
    statistic: Statistic,
    count: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic over `count` rows, drawn again with replacement (Efron 1979).

    Args:
        statistic: takes row numbers (R, count) of R resamples, gives its value for each, (R,); where it is not
            defined, not a number: such resamples are left out.
        count: how many rows (queries, samples) there are, 1 or more.
        seed: the same seed draws the same rows, whatever the statistic.
    """
    return percentiles(resampled(statistic, count, resamples=resamples, seed=seed), level)


def resampled(statistic: Statistic, count: int, *, resamples: int = 1000, seed: int = 0) -> NDArray[np.float64]:
    """(R,) the statistic of R resamples of `count` rows; not a number where it is not defined.

    Args:
        seed: the same seed draws the same rows, so that the values of two models can be subtracted, resample by
            resample: the paired bootstrap.
    """
    draw = np.random.default_rng(seed)
    step = max(1, _DRAWN_AT_ONCE // count)
    values = [
        statistic(draw.integers(count, size=(min(step, resamples - done), count))) for done in range(0, resamples, step)
    ]
    return np.concatenate(values)


def percentiles(values: NDArray[np.float64], level: float = 0.95) -> Interval:
    """What lies between the tails of `values` (R,), those left out that are not a number."""
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))


def mean_of(values: NDArray[np.floating | np.bool_]) -> Statistic:
    """For `bootstrap`: the mean of `values` (count,)."""
    return lambda rows: np.mean(values[rows], axis=1, dtype=np.float64)


def median_of(values: NDArray[np.floating]) -> Statistic:
    """For `bootstrap`: the median of `values` (count,)."""
    return lambda rows: np.median(values[rows], axis=1)
