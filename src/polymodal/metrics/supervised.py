"""All that is measured of one target, by its task.

n rows, or tokens, whose label is known; C classes, labels or answers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from torch import Tensor

from polymodal.errors import DataError
from polymodal.features import Task
from polymodal.metrics import of_task
from polymodal.metrics.intervals import bootstrap

Array = Tensor | NDArray[Any]
Numbers = NDArray[np.float64]

# What one number says most of each task; higher is better in all of them.
MAIN_METRIC: dict[Task, str] = {
    "binary": "auroc",
    "multiclass": "accuracy",
    "multilabel": "auroc",
    "regression": "r2",
    "ordinal": "kappa",
    "soft": "vqa_accuracy",
    "tokens": "f1",
}


def report(
    task: Task,
    predictions: Array,
    targets: Array,
    known: Array,
    classes: Sequence[str] = (),
    *,
    std: float = 1.0,
    sentences: Array | None = None,
    intervals: bool = False,
    with_curves: bool = False,
    seed: int = 0,
) -> of_task.Report:
    """Metrics of one target as plain values; None where one is not defined, and `{"rows": 0}` where no label is known.

    - binary: accuracy, balanced_accuracy, f1, precision, recall, specificity, auroc, average_precision, nll, brier, ece
    - multiclass: accuracy, balanced_accuracy, f1_macro, f1_micro, top5, nll, brier, ece, and auroc: the mean of one
      class against the rest, over the classes that occur
    - multilabel: f1_micro, auroc, average_precision and f1_macro as means over the labels where they are defined, and
      exact_match, of the rows of which all labels are known
    - regression: rmse, mae, r2
    - ordinal: accuracy, mae (in classes), kappa (quadratic weights)
    - soft: vqa_accuracy, the score of the likeliest answer; best, that of the best one
    - tokens: accuracy (O included); f1, precision, recall of whole entities where the classes are BIO tags, else f1 is
      the accuracy, beside f1_macro

    With them come majority (the accuracy of always the most frequent class), per_class, per_label or per_type,
    confusion (to 30 classes) and reliability.

    Args:
        predictions: as the head gives them: (n, C), of tokens (B, L, C) or (n, C); logits, or scaled values.
        targets: as `features.Target` says; of tokens (B, L), or (n,) with `sentences`.
        known: bool, of the shape of `targets`, or (n,).
        classes: names, in the order of the head's outputs.
        std: of a regression's target, by which rmse and mae are put into its own units.
        sentences: (n,) numbers that tell which sentence each token is of, where tokens come as (n,); None: all are one.
        intervals: also `intervals`: {metric: [low, high]}, 95 %, by bootstrap over rows (over sentences for tokens).
        with_curves: also `curves` of binary and, label by label, multilabel targets: points of ROC and PR.

    Raises:
        DataError: a prediction is not finite.
    """
    found, statistics, count = measure(
        task, predictions, targets, known, classes, std=std, sentences=sentences, with_curves=with_curves
    )
    if intervals and count:
        found["intervals"] = {name: list(bootstrap(one, count, seed=seed)) for name, one in statistics.items()}
    return found


class Measured(NamedTuple):
    report: of_task.Report
    statistics: of_task.Statistics  # by the metric's name, for resamples of the rows whose label is known
    rows: int  # of those; of tokens, of the sentences with a known label


def measure(
    task: Task,
    predictions: Array,
    targets: Array,
    known: Array,
    classes: Sequence[str] = (),
    *,
    std: float = 1.0,
    sentences: Array | None = None,
    with_curves: bool = False,
) -> Measured:
    """The report of one target, and what intervals can be drawn for; arguments as of `report`.

    Raises:
        DataError: a prediction is not finite.
    """
    given = _numpy(predictions).astype(np.float64)
    labels, there = _numpy(targets), _numpy(known).astype(bool)
    if task == "tokens":
        numbers = _sentence_numbers(labels, sentences)
        given, labels, there = given.reshape(-1, given.shape[-1]), labels.ravel(), there.ravel()
    there = there if there.shape == labels.shape else np.broadcast_to(there[:, None], labels.shape)
    seen = there.any(1) if there.ndim == 2 else there
    given, labels, there = given[seen], labels[seen], there[seen]
    if not len(labels):
        return Measured({"rows": 0}, {}, 0)
    if not np.isfinite(given).all():
        bad = int((~np.isfinite(given).all(1)).sum())
        raise DataError(f"metrics: {bad} of {len(given)} predictions are not finite")
    count = len(labels)
    match task:
        case "binary":
            found, statistics = of_task.binary(given[:, 0], labels.astype(np.int64), classes, with_curves)
        case "multiclass":
            found, statistics = of_task.multiclass(given, labels.astype(np.int64), classes)
        case "multilabel":
            found, statistics = of_task.multilabel(given, labels, there, classes, with_curves)
        case "regression":
            found, statistics = of_task.regression(given[:, 0] * std, labels.astype(np.float64) * std)
        case "ordinal":
            found, statistics = of_task.ordinal(given, labels.astype(np.int64), classes)
        case "soft":
            found, statistics = of_task.soft(given, labels.astype(np.float64))
        case "tokens":
            bounds = np.flatnonzero(np.diff(numbers[seen])) + 1
            found, statistics = of_task.tokens(given, labels.astype(np.int64), classes, bounds)
            count = len(bounds) + 1
    return Measured({"rows": len(labels)} | found, statistics, count)


def probabilities(task: Task, outputs: Array) -> Numbers:
    """What a head's outputs (n, C) say: (n, 2) of no and yes for binary, (n, C) of C thresholds' C + 1 classes for
    ordinal, sigmoids for multilabel and soft, a softmax for the rest; of a regression the outputs as they are.

    An ordinal head's thresholds may cross: what would be a negative share is 0 then.
    """
    given = _numpy(outputs).astype(np.float64)
    match task:
        case "binary":
            yes = expit(given[:, 0])
            return np.stack([1 - yes, yes], 1)
        case "multilabel" | "soft":
            return np.asarray(expit(given))
        case "ordinal":
            above = np.minimum.accumulate(expit(given), axis=1)
            edges = np.ones((len(given), 1))
            return -np.diff(np.concatenate([edges, above, 0 * edges], 1), axis=1)
        case "regression":
            return given
        case _:
            return np.asarray(softmax(given, axis=-1))


def decide(task: Task, outputs: Array) -> NDArray[np.int64]:
    """The class of each row (n,); of multilabel 0 or 1 for each label (n, C); of ordinal how many thresholds it passes.

    Raises:
        DataError: the task is a regression.
    """
    given = _numpy(outputs)
    match task:
        case "binary":
            return np.asarray(given[:, 0] > 0, np.int64)
        case "multilabel":
            return np.asarray(given > 0, np.int64)
        case "ordinal":
            return np.asarray((given > 0).sum(1), np.int64)
        case "regression":
            raise DataError("metrics: a regression has no classes to decide between")
        case _:
            return np.asarray(given.argmax(-1), np.int64)


def _sentence_numbers(labels: NDArray[Any], sentences: Array | None) -> NDArray[Any]:
    if sentences is not None:
        return _numpy(sentences)
    if labels.ndim == 2:
        return np.repeat(np.arange(len(labels)), labels.shape[1])
    return np.zeros(len(labels), np.int64)


def _numpy(values: Array) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
