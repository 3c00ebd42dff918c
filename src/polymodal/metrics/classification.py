"""Classification: accuracy, top-5, by class, macro F1.

n rows; C classes.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, precision_recall_fscore_support

from polymodal.errors import DataError
from polymodal.metrics.intervals import Statistic

Labels = NDArray[np.int64]


def top_k_hits(k: int, scores: NDArray[np.floating], labels: Labels) -> NDArray[np.bool_]:
    """Whether each row's label is among its k highest scores, (n,). Equal scores count against.

    Args:
        scores: (n, C), any finite numbers.
        labels: (n,), 0 to C - 1.

    Raises:
        DataError: a score is not finite.
    """
    if not np.isfinite(scores).all():
        raise DataError(f"classification: {(~np.isfinite(scores)).sum()} of {scores.size} scores are not finite")
    own = np.take_along_axis(scores, labels[:, None], 1)
    hits: NDArray[np.bool_] = (scores >= own).sum(1) <= k
    return hits


def macro_f1(labels: Labels, predictions: Labels) -> float:
    """Unweighted mean of F1 over the classes that occur as label or prediction, 0 to 1 (scikit-learn's)."""
    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def resampled_macro_f1(labels: Labels, predictions: Labels, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """`macro_f1` of every resample, (R,), for `intervals.bootstrap`.

    Args:
        rows: (R, n) row numbers.
    """
    classes = int(max(labels.max(), predictions.max())) + 1
    offset = np.arange(len(rows))[:, None] * classes

    def count(values: Labels, weights: NDArray[np.bool_]) -> NDArray[np.float64]:
        flat = np.bincount((values[rows] + offset).ravel(), weights[rows].ravel(), len(rows) * classes)
        return flat.reshape(-1, classes).astype(np.float64)

    everywhere = np.ones(len(labels), bool)
    both = count(labels, everywhere) + count(predictions, everywhere)
    hits = count(labels, labels == predictions)
    f1: NDArray[np.float64] = (2 * hits / np.maximum(both, 1)).sum(1) / (both > 0).sum(1)
    return f1


def balanced_accuracy_of(labels: Labels, predictions: Labels) -> Statistic:
    """Mean recall of the classes that occur, of every resample, (R,), for `intervals.bootstrap`."""
    classes = int(labels.max()) + 1

    def of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        flat = (labels[rows] + np.arange(len(rows))[:, None] * classes).ravel()
        there, hits = (
            np.bincount(flat, weights, len(rows) * classes).reshape(-1, classes)
            for weights in (None, (labels == predictions)[rows].ravel())
        )
        recall: NDArray[np.float64] = (hits / np.maximum(there, 1)).sum(1) / (there > 0).sum(1)
        return recall

    return of


def per_class(labels: Labels, predictions: Labels, names: list[str]) -> list[dict[str, float | int | str]]:
    """Precision, recall, F1 (0 to 1) and number of rows of each class that has rows, in the order of `names`."""
    present = np.unique(labels)
    precision, recall, f1, rows = precision_recall_fscore_support(labels, predictions, labels=present, zero_division=0)
    return [
        {"class": names[c], "precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
        for c, p, r, f, n in zip(present, precision, recall, f1, rows, strict=True)
    ]


def confusion(labels: Labels, predictions: Labels, classes: int) -> NDArray[np.int64]:
    """(C, C): rows of the true class (down) that were given the predicted class (across)."""
    flat = np.bincount(labels * classes + predictions, minlength=classes**2)
    return flat.reshape(classes, classes)
