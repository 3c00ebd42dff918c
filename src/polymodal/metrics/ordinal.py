"""Ordered classes: how far off, not only whether.

n rows; C classes, from low to high.
"""

import numpy as np
from numpy.typing import NDArray

from polymodal.metrics.intervals import Statistic

Labels = NDArray[np.int64]


def steps_off(labels: Labels, predictions: Labels) -> NDArray[np.float64]:
    """Classes between the predicted and the true one, (n,); their mean is the MAE of ordinal regression."""
    steps: NDArray[np.float64] = np.abs(labels - predictions).astype(np.float64)
    return steps


def weighted_kappa(labels: Labels, predictions: Labels) -> float | None:
    """Cohen's kappa with quadratic weights, -1 to 1; 0 is chance. None where all are of one and the same class.

    1 - Σ (i - j)² seen / Σ (i - j)² expected by the two distributions: Cohen 1968.
    """
    if not len(labels):
        return None
    (value,) = kappa_of(labels, predictions)(np.arange(len(labels))[None])
    return None if np.isnan(value) else float(value)


def kappa_of(labels: Labels, predictions: Labels) -> Statistic:
    """`weighted_kappa` of every resample, (R,), for `intervals.bootstrap`; not a number where it is not defined."""

    def of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        true, found = labels[rows].astype(np.float64), predictions[rows].astype(np.float64)
        seen = ((true - found) ** 2).mean(1)
        # E (i - j)² of independent i and j: both variances and the squared distance of the means.
        expected = true.var(1) + found.var(1) + (true.mean(1) - found.mean(1)) ** 2
        value: NDArray[np.float64] = np.where(expected > 0, 1 - seen / np.where(expected > 0, expected, 1), np.nan)
        return value

    return of
