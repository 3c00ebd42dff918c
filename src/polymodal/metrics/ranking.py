"""Does a score put the positive rows in front? AUROC, average precision, and the curves behind them.

n rows; R resamples.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_curve

from polymodal.metrics.intervals import Statistic

Scores = NDArray[np.floating]
Flags = NDArray[np.bool_]


def auroc(scores: Scores, positive: Flags) -> float | None:
    """Share of pairs of a positive and a negative row in which the positive scores higher, 0 to 1; equal ones count ½.

    It is the Mann-Whitney U over all pairs. None where all rows are of one class: there is no pair.

    Args:
        scores: (n,), any finite numbers.
        positive: (n,).
    """
    if not len(scores):
        return None
    (value,) = auroc_of(scores, positive)(np.arange(len(scores))[None])
    return None if np.isnan(value) else float(value)


def auroc_of(scores: Scores, positive: Flags) -> Statistic:
    """`auroc` of every resample, (R,), for `intervals.bootstrap`; not a number where a resample is of one class."""
    kinds, place = np.unique(scores, return_inverse=True)  # equal scores share a place

    def of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        cell = place[rows] + np.arange(len(rows))[:, None] * len(kinds)
        counts = [
            np.bincount(cell.ravel(), flags[rows].ravel(), len(rows) * len(kinds)).reshape(len(rows), -1)
            for flags in (positive, ~positive)
        ]
        positives, negatives = counts
        below = negatives.cumsum(1) - negatives / 2
        pairs = positives.sum(1) * negatives.sum(1)
        value: NDArray[np.float64] = np.where(pairs > 0, (positives * below).sum(1) / np.maximum(pairs, 1), np.nan)
        return value

    return of


def average_precision(scores: Scores, positive: Flags) -> float | None:
    """Mean precision at the places of positive rows, 0 to 1 (AUPRC, scikit-learn's); None without a positive row.

    Chance is the share of positive rows.
    """
    return float(average_precision_score(positive, scores)) if positive.any() else None


def average_precision_of(scores: Scores, positive: Flags) -> Statistic:
    """`average_precision` of every resample, (R,), for `intervals.bootstrap`; not a number without a positive row."""
    kinds, place = np.unique(-scores, return_inverse=True)  # the highest first; equal scores share a place

    def of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        cell = place[rows] + np.arange(len(rows))[:, None] * len(kinds)
        hits, drawn = (
            np.bincount(cell.ravel(), weights, len(rows) * len(kinds)).reshape(len(rows), -1)
            for weights in (positive[rows].ravel(), None)
        )
        precision = hits.cumsum(1) / np.maximum(drawn.cumsum(1), 1)
        total = hits.sum(1)
        value: NDArray[np.float64] = np.where(total > 0, (hits * precision).sum(1) / np.maximum(total, 1), np.nan)
        return value

    return of


def curves(scores: Scores, positive: Flags, points: int = 100) -> dict[str, list[list[float]]]:
    """Points of both curves, at most `points` each, first and last among them; none where all rows are of one class.

    Returns:
        `roc`: [false positive rate, true positive rate]; `pr`: [recall, precision].
    """
    if positive.all() or not positive.any():
        return {"roc": [], "pr": []}
    false, true, _ = roc_curve(positive, scores)
    precision, recall, _ = precision_recall_curve(positive, scores)
    return {"roc": _thinned(false, true, points), "pr": _thinned(recall, precision, points)}


def _thinned(x: Scores, y: Scores, points: int) -> list[list[float]]:
    kept = np.unique(np.linspace(0, len(x) - 1, min(points, len(x))).round().astype(int))
    return [[float(a), float(b)] for a, b in zip(x[kept], y[kept], strict=True)]
