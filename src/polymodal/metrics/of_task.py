"""What is measured of a target of each task: a report of plain values, and what intervals can be drawn for.

All labels that come here are known, and all outputs finite; see `supervised.report`.
n rows, or tokens; C classes, labels or answers; R resamples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, softmax

from polymodal.metrics import calibration
from polymodal.metrics.classification import (
    balanced_accuracy_of,
    confusion,
    macro_f1,
    per_class,
    resampled_macro_f1,
    top_k_hits,
)
from polymodal.metrics.entities import entities, entity_report, is_bio
from polymodal.metrics.intervals import Statistic, mean_of
from polymodal.metrics.ordinal import kappa_of, steps_off, weighted_kappa
from polymodal.metrics.ranking import auroc, auroc_of, average_precision, average_precision_of, curves

Numbers = NDArray[np.float64]
Report = dict[str, Any]
Statistics = dict[str, Statistic]

CONFUSION_CLASSES = 30  # more of them make no readable matrix


def binary(
    logits: Numbers, labels: NDArray[np.int64], classes: Sequence[str], with_curves: bool
) -> tuple[Report, Statistics]:
    predictions, positive = (logits > 0).astype(np.int64), labels == 1
    both = calibration.two_classes(logits)
    recall, specificity = _share(predictions[positive] == 1), _share(predictions[~positive] == 0)
    precision = _share(positive[predictions == 1])
    hits = int((positive & (predictions == 1)).sum())
    found = _classified(labels, predictions, classes, 2) | {
        "auroc": auroc(logits, positive),
        "average_precision": average_precision(logits, positive),
        "f1": 2 * hits / max(1, int(positive.sum() + predictions.sum())) if positive.any() else None,
        "precision": precision,
        "recall": recall,
        "specificity": specificity,
        **_calibrated(both, labels),
    }
    found["brier"] /= 2  # of yes alone, as it is usual for two classes
    if with_curves:
        found["curves"] = curves(logits, positive)
    said = predictions == 1
    statistics: Statistics = {
        "accuracy": mean_of(predictions == labels),
        "balanced_accuracy": balanced_accuracy_of(labels, predictions),
        "auroc": auroc_of(logits, positive),
        "average_precision": average_precision_of(logits, positive),
        "f1": _ratio(np.stack([2 * (positive & said), positive.astype(int) + said], 1)),
        "precision": _ratio(np.stack([positive & said, said], 1)),
        "recall": _ratio(np.stack([positive & said, positive], 1)),
        "specificity": _ratio(np.stack([~positive & ~said, ~positive], 1)),
        **_calibrated_statistics(both, labels, 0.5),
    }
    return found, _defined(statistics, found)


def multiclass(logits: Numbers, labels: NDArray[np.int64], classes: Sequence[str]) -> tuple[Report, Statistics]:
    predictions, count = logits.argmax(1), logits.shape[1]
    shares = softmax(logits, axis=1)
    each = [auroc(shares[:, one], labels == one) for one in np.unique(labels)]
    found = _classified(labels, predictions, classes, count) | {
        "f1_macro": macro_f1(labels, predictions),
        "f1_micro": _share(labels == predictions),  # of single labels it is the accuracy
        "auroc": _mean(each),
        **_calibrated(logits, labels),
    }
    if count > 5:
        found["top5"] = _share(top_k_hits(5, logits, labels))
    statistics: Statistics = {
        "accuracy": mean_of(predictions == labels),
        "balanced_accuracy": balanced_accuracy_of(labels, predictions),
        "f1_macro": lambda rows: resampled_macro_f1(labels, predictions, rows),
        "f1_micro": mean_of(predictions == labels),
        **_calibrated_statistics(logits, labels),
    }
    if count > 5:
        statistics["top5"] = mean_of(top_k_hits(5, logits, labels))
    return found, statistics


def multilabel(
    logits: Numbers, labels: NDArray[Any], known: NDArray[np.bool_], classes: Sequence[str], with_curves: bool
) -> tuple[Report, Statistics]:
    predictions, whole = logits > 0, known.all(1)
    names = classes or [str(one) for one in range(logits.shape[1])]
    per_label, of_labels = [], []
    hits = told = 0
    for one, name in enumerate(names):
        rows = known[:, one]
        score, truth, said = logits[rows, one], labels[rows, one] > 0.5, predictions[rows, one]
        right, both = int((truth & said).sum()), int(truth.sum() + said.sum())
        hits, told = hits + right, told + both
        entry = {
            "label": name,
            "rows": int(rows.sum()),
            "positives": int(truth.sum()),
            "auroc": auroc(score, truth),
            "average_precision": average_precision(score, truth) if len(truth) else None,
            "f1": 2 * right / both if both else None,
            "precision": _share(truth[said]),
            "recall": _share(said[truth]),
        }
        per_label.append(entry | ({"curves": curves(score, truth)} if with_curves and len(truth) else {}))
        of_labels.append(_label_auroc(logits[:, one], labels[:, one] > 0.5, rows))
    found = {
        "auroc": _mean(entry["auroc"] for entry in per_label),
        "average_precision": _mean(entry["average_precision"] for entry in per_label),
        "f1_macro": _mean(entry["f1"] for entry in per_label),
        "f1_micro": 2 * hits / told if told else None,
        "exact_match": _share((predictions == (labels > 0.5)).all(1)[whole]),
        "per_label": per_label,
    }
    right, truth = known & (predictions == (labels > 0.5)), known & (labels > 0.5)
    told_of = (truth.astype(int) + (known & predictions)).sum(1)
    statistics: Statistics = {
        "auroc": lambda rows: _row_mean(np.stack([one(rows) for one in of_labels])),
        "f1_micro": _ratio(np.stack([2 * (truth & predictions).sum(1), told_of], 1)),
        "exact_match": _ratio(np.stack([right.all(1) & whole, whole], 1)),
    }
    return found, _defined(statistics, found)


def regression(values: Numbers, truth: Numbers) -> tuple[Report, Statistics]:
    squared, absolute = (values - truth) ** 2, np.abs(values - truth)

    def r2(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        spread = truth[rows].var(1)
        value: NDArray[np.float64] = np.where(
            spread > 0, 1 - squared[rows].mean(1) / np.where(spread > 0, spread, 1), np.nan
        )
        return value

    (whole,) = r2(np.arange(len(truth))[None])
    found: Report = {
        "rmse": float(np.sqrt(squared.mean())),
        "mae": float(absolute.mean()),
        "r2": None if np.isnan(whole) else float(whole),
    }
    statistics: Statistics = {"rmse": lambda rows: np.sqrt(squared[rows].mean(1)), "mae": mean_of(absolute)}
    return found, statistics | ({} if np.isnan(whole) else {"r2": r2})


def ordinal(logits: Numbers, labels: NDArray[np.int64], classes: Sequence[str]) -> tuple[Report, Statistics]:
    predictions = np.asarray((logits > 0).sum(1), np.int64)
    off, kappa = steps_off(labels, predictions), weighted_kappa(labels, predictions)
    found = _classified(labels, predictions, classes, logits.shape[1] + 1) | {"mae": float(off.mean()), "kappa": kappa}
    statistics: Statistics = {
        "accuracy": mean_of(predictions == labels),
        "balanced_accuracy": balanced_accuracy_of(labels, predictions),
        "mae": mean_of(off),
        "kappa": kappa_of(labels, predictions),
    }
    return found, _defined(statistics, found)


def soft(logits: Numbers, scores: Numbers) -> tuple[Report, Statistics]:
    worth = scores[np.arange(len(scores)), logits.argmax(1)]
    found = {"vqa_accuracy": float(worth.mean()), "best": float(scores.max(1).mean())}
    return found, {"vqa_accuracy": mean_of(worth)}


def tokens(
    logits: Numbers, labels: NDArray[np.int64], classes: Sequence[str], bounds: NDArray[np.int64]
) -> tuple[Report, Statistics]:
    """`bounds`: where a new sentence begins; resamples are of sentences."""
    predictions = logits.argmax(1)
    right = [(part.sum(), len(part)) for part in np.split(labels == predictions, bounds)]
    found = _classified(labels, predictions, classes, logits.shape[1])
    statistics: Statistics = {"accuracy": _ratio(right)}
    if not is_bio(classes):
        return found | {"f1": found["accuracy"], "f1_macro": macro_f1(labels, predictions)}, statistics
    true, said = ([[classes[tag] for tag in part] for part in np.split(tags, bounds)] for tags in (labels, predictions))
    found |= entity_report(true, said)
    pairs = [(entities([one]), entities([other])) for one, other in zip(true, said, strict=True)]
    both, wanted, named = np.array([(len(one & other), len(one), len(other)) for one, other in pairs]).T
    counts = {"f1": (2 * both, wanted + named), "precision": (both, named), "recall": (both, wanted)}
    # Without a single entity below the line no resample has a value, though the report says 0.
    statistics |= {name: _ratio(np.stack(pair, 1)) for name, pair in counts.items() if pair[1].any()}
    return found, statistics


def _defined(statistics: Statistics, found: Report) -> Statistics:
    return {name: statistic for name, statistic in statistics.items() if found[name] is not None}


def _ratio(counts: ArrayLike) -> Statistic:
    """Of the sums of two counts of each row; not a number where the second is 0."""
    above, below = np.array(counts, np.float64).T

    def of(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        total = below[rows].sum(1)
        value: NDArray[np.float64] = np.where(total > 0, above[rows].sum(1) / np.maximum(total, 1), np.nan)
        return value

    return of


def _classified(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: Sequence[str], count: int
) -> Report:
    names = list(classes) or [str(one) for one in range(count)]
    by_class = per_class(labels, predictions, names)
    found: Report = {
        "accuracy": _share(labels == predictions),
        "balanced_accuracy": float(np.mean([entry["recall"] for entry in by_class])),  # over classes that occur
        "majority": float(np.bincount(labels).max() / len(labels)),
        "per_class": by_class,
    }
    if count <= CONFUSION_CLASSES:
        found["confusion"] = {"classes": names, "counts": confusion(labels, predictions, count).tolist()}
    return found


def _calibrated(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> Report:
    shares = softmax(logits, axis=1)
    bins = calibration.reliability(shares, labels)
    return {
        "nll": calibration.negative_log_likelihood(logits, labels),
        "brier": calibration.brier(shares, labels),
        "ece": calibration.expected_calibration_error(bins),
        "reliability": bins,
    }


def _calibrated_statistics(logits: NDArray[np.floating], labels: NDArray[np.int64], share: float = 1.0) -> Statistics:
    """Of what `_calibrated` reports; `share` of the Brier score's sum over classes counts."""
    shares = softmax(logits, axis=1)
    own = np.arange(len(labels)), labels
    truth = np.zeros_like(shares)
    truth[own] = 1
    return {
        "nll": mean_of(-log_softmax(logits, axis=1)[own]),
        "brier": mean_of(share * ((shares - truth) ** 2).sum(1)),
        "ece": calibration.ece_of(shares, labels),
    }


def _label_auroc(scores: Numbers, positive: NDArray[np.bool_], known: NDArray[np.bool_]) -> Statistic:
    """AUROC of one label over the rows of a resample in which it is known."""
    place = np.cumsum(known) - 1
    of = auroc_of(scores[known], positive[known])

    def of_rows(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        # Resamples know a label of different numbers of rows, so each is asked on its own.
        return np.array([of(place[row[known[row]]][None])[0] if known[row].any() else np.nan for row in rows])

    return of_rows


def _row_mean(values: Numbers) -> Numbers:
    """Mean over the labels (C, R) that are defined, (R,)."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(0)
    mean: Numbers = np.where(defined.any(0), total / np.maximum(defined.sum(0), 1), np.nan)
    return mean


def _mean(values: Any) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None
