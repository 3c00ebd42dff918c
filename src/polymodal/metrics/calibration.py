"""Does a probability mean what it says? Reliability, ECE, Brier score, NLL, and temperature scaling.

Source: Guo et al. 2017, arXiv:1706.04599.
n rows; C classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from polymodal.errors import DataError
from polymodal.metrics.intervals import Statistic

Rows = NDArray[np.floating]  # (n, C)
Labels = NDArray[np.int64]  # (n,), 0 to C - 1

BINS = 15
HOTTEST, COLDEST = 20.0, 0.05  # temperatures between which the best is looked for


def reliability(probabilities: Rows, labels: Labels, bins: int = BINS) -> list[dict[str, float | int]]:
    """Of every bin of confidence that has rows: bounds, number of rows, mean confidence, accuracy.

    Confidence is the highest probability of a row. Bins are equally wide, each without its lower bound and with its
    upper one, as in the source.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    edges, place = np.linspace(0, 1, bins + 1), _bin_of(confidence, bins)
    return [
        {
            "low": float(edges[one]),
            "high": float(edges[one + 1]),
            "rows": int((place == one).sum()),
            "confidence": float(confidence[place == one].mean()),
            "accuracy": float(right[place == one].mean()),
        }
        for one in np.unique(place)
    ]


def _bin_of(confidence: NDArray[np.floating], bins: int) -> NDArray[np.int64]:
    place: NDArray[np.int64] = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    return place


def expected_calibration_error(bins: list[dict[str, Any]]) -> float:
    """Mean distance of confidence from accuracy over the bins of `reliability`, by their rows, 0 to 1 (ECE)."""
    rows = sum(one["rows"] for one in bins)
    return float(sum(one["rows"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / rows)


def ece_of(probabilities: Rows, labels: Labels, bins: int = BINS) -> Statistic:
    """`expected_calibration_error` of every resample, (R,), for `intervals.bootstrap`."""
    confidence = probabilities.max(1)
    excess = (probabilities.argmax(1) == labels) - confidence
    place = _bin_of(confidence, bins)

    def of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        cell = place[rows] + np.arange(len(rows))[:, None] * bins
        sums = np.bincount(cell.ravel(), excess[rows].ravel(), len(rows) * bins).reshape(len(rows), -1)
        error: NDArray[np.float64] = np.abs(sums).sum(1) / rows.shape[1]
        return error

    return of


def brier(probabilities: Rows, labels: Labels) -> float:
    """Mean squared distance of the probabilities from the truth, summed over classes, 0 to 2 (Brier 1950).

    Of two classes it is twice the usual score of the positive one alone.
    """
    truth = np.zeros_like(probabilities)
    truth[np.arange(len(labels)), labels] = 1
    return float(((probabilities - truth) ** 2).sum(1).mean())


def negative_log_likelihood(logits: Rows, labels: Labels) -> float:
    """Mean cross-entropy, in nats."""
    return float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: Rows, labels: Labels) -> float:
    """T in [0.05, 20] by which logits are divided so that the NLL of validation rows is least; no answer changes.

    Args:
        logits: (n, C); of a binary target `two_classes` of its one.

    Raises:
        DataError: there is no row, or a logit is not finite.
    """
    if not len(labels) or not np.isfinite(logits).all():
        raise DataError(f"temperature: wanted finite logits of one row or more, got {len(labels)} rows")
    best = minimize_scalar(
        lambda log: negative_log_likelihood(logits / np.exp(log), labels),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(best.x))


def two_classes(logits: NDArray[np.floating]) -> Rows:
    """(n, 2) logits of "no" and "yes", of the one logit (n,) of a binary target."""
    return np.stack([np.zeros_like(logits), logits], 1)
