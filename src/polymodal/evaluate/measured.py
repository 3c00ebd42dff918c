"""All that is measured of one target on chosen rows, as plain values for report.json.

n rows whose label is known, or tokens; C classes, labels or answers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from polymodal.evaluate.baseline import constant, repeated
from polymodal.evaluate.measures import histogram
from polymodal.features import Target, Task
from polymodal.metrics import calibration
from polymodal.metrics.ranking import auroc, average_precision, curves
from polymodal.metrics.supervised import MAIN_METRIC, probabilities, report

Result = dict[str, Any]
Places = NDArray[np.int64]

CURVES = 8  # classes or labels, the most frequent ones, whose curves are drawn
POINTS = 1000  # of predicted against true
NOT_METRICS = ("rows", "majority", "best", "entities")
TABLES = ("per_class", "per_label", "per_type", "confusion")


class Known(NamedTuple):
    """What the model says of one target, and what is known of it, on N rows."""

    target: Target
    outputs: Tensor  # (N, C); of tokens (N, L, C)
    values: Tensor  # as `features.Target` says
    known: Tensor

    @property
    def logits(self) -> Tensor:
        """The outputs by which probabilities are told: divided by the target's temperature."""
        return self.outputs / self.target.temperature

    def rows(self) -> NDArray[np.bool_]:
        """(N,) whether anything is known."""
        known: NDArray[np.bool_] = self.known.flatten(1).any(1).numpy() if self.known.ndim > 1 else self.known.numpy()
        return known

    def at(self, places: Places) -> "Known":
        return Known(self.target, self.outputs[places], self.values[places], self.known[places])


def measure(known: Known, seed: int) -> Result:
    """Metrics with intervals and baseline, and what the report shows of them; `{"rows": 0}` where no label is known."""
    target = known.target
    found = _report(known, known.logits, seed=seed, with_curves=True)
    if not found["rows"]:
        return {"rows": 0}
    result: Result = {
        "task": target.task,
        "main": MAIN_METRIC[target.task],
        "rows": int(known.rows().sum()),
        "rows_without_label": int((~known.rows()).sum()),
        "metrics": _measures(target.task, found, _baseline(known)),
        **{name: found[name] for name in TABLES if name in found},
    }
    if target.task == "tokens":
        result["tokens"] = found["rows"]
    if "best" in found:
        result["best"] = found["best"]
    if target.task == "regression":
        return result | _scatter(known, seed)
    return result | {"curves": _curves(known, found), "calibration": _calibration(known)}


def measure_part(known: Known, seed: int) -> Result:
    """Metrics with intervals and baseline of a part of the rows."""
    found = _report(known, known.logits, seed=seed)
    if not found["rows"]:
        return {"rows": 0, "metrics": {}}
    return {"rows": int(known.rows().sum()), "metrics": _measures(known.target.task, found, _baseline(known))}


def _baseline(known: Known) -> Result:
    """What the best answer reaches that is the same for all of these rows: it knows their shares and sees no input."""
    target = known.target
    answer = repeated(constant(target, known.values, known.known), known.values, target)
    return _report(known, answer, intervals=False)


def _report(
    known: Known, outputs: Tensor, *, seed: int = 0, intervals: bool = True, with_curves: bool = False
) -> Result:
    target = known.target
    return report(
        target.task,
        outputs,
        known.values,
        known.known,
        target.classes,
        std=target.std,
        intervals=intervals,
        with_curves=with_curves,
        seed=seed,
    )


def _measures(task: Task, found: Result, baseline: Result) -> dict[str, Result]:
    """name -> value, low, high, baseline; the main metric first."""
    names = [
        name for name, value in found.items() if name not in NOT_METRICS and (value is None or isinstance(value, float))
    ]
    names.sort(key=lambda name: name != MAIN_METRIC[task])
    measures = {}
    for name in names:
        low, high = found["intervals"].get(name, (None, None))
        measures[name] = {"value": found[name], "low": low, "high": high, "baseline": baseline.get(name)}
    if "accuracy" in measures:
        measures["accuracy"]["baseline"] = found["majority"]
    return measures


# ---------------------------------------------------------------------------------------------------------------------
# Numbers: predicted against true


def _scatter(known: Known, seed: int) -> Result:
    """Points and the histogram of the errors, in the target's own units."""
    target, rows = known.target, known.rows()
    true, predicted = (
        values.double().numpy()[rows] * target.std + target.mean for values in (known.values, known.outputs[:, 0])
    )
    drawn = np.sort(np.random.default_rng(seed).permutation(len(true))[:POINTS])
    errors = predicted - true
    low, high = float(errors.min()), float(errors.max())
    edges = np.linspace(low, high if high > low else low + 1e-6, 31)
    return {"points": np.stack([true, predicted], 1)[drawn].tolist(), "errors": histogram(errors, edges)}


# ---------------------------------------------------------------------------------------------------------------------
# Classes: curves and calibration


def _curves(known: Known, found: Result) -> list[Result]:
    """ROC and precision over recall, of the most frequent classes one against the rest, or of labels."""
    task, rows = known.target.task, known.rows()
    if task == "binary":
        one = {
            "class": known.target.classes[1],
            "auroc": found["auroc"],
            "average_precision": found["average_precision"],
        }
        return [one | found["curves"]] if found["curves"]["roc"] else []
    if task == "multilabel":
        labels = sorted(found["per_label"], key=lambda label: -label["positives"])
        return [
            {"class": label["label"], "auroc": label["auroc"], "average_precision": label["average_precision"]} | drawn
            for label in labels
            if (drawn := label.pop("curves", None)) and drawn["roc"]
        ][:CURVES]
    if task != "multiclass":
        return []
    shares, true = probabilities(task, known.logits[rows]), known.values.numpy()[rows]
    common = np.bincount(true, minlength=shares.shape[1]).argsort(kind="stable")[::-1][:CURVES].tolist()
    return [
        {
            "class": known.target.classes[c],
            "auroc": auroc(shares[:, c], true == c),
            "average_precision": average_precision(shares[:, c], true == c),
        }
        | drawn
        for c in common
        if (drawn := curves(shares[:, c], true == c))["roc"]
    ]


def _calibration(known: Known) -> Result | None:
    """Before and after division by the temperature; None for answers whose right ones are a matter of degree."""
    target = known.target
    if target.task == "soft":
        return None
    before = _reliability(*classified(known, known.outputs))
    found: Result = {"temperature": target.temperature, "before": before}
    return found if target.temperature == 1 else found | {"after": _reliability(*classified(known, known.logits))}


def classified(known: Known, outputs: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities (n, C) and classes (n,) of what is known; each label of many, by itself, is no or yes."""
    task, there = known.target.task, known.known.numpy()
    values = known.values.numpy()
    if task == "multilabel":
        yes = probabilities(task, outputs)[there]
        return np.stack([1 - yes, yes], 1), (values[there] > 0.5).astype(np.int64)
    return probabilities(task, outputs[known.known]), values[there].astype(np.int64)


def _reliability(shares: NDArray[np.float64], labels: NDArray[np.int64]) -> Result:
    bins = calibration.reliability(shares, labels)
    true = shares[np.arange(len(labels)), labels]
    return {
        "ece": calibration.expected_calibration_error(bins),
        "nll": float(-np.log(np.maximum(true, 1e-12)).mean()),
        "brier": calibration.brier(shares, labels),
        "reliability": bins,
    }


def undefined(name: str, result: Result, classes: Sequence[str]) -> list[str]:
    """What could not be measured of a target, and why."""
    lacking = [metric for metric, measure in result["metrics"].items() if measure["value"] is None]
    if not lacking:
        return []
    there = [one["class"] for one in result.get("per_class", ())]
    why = f'all {result["rows"]} rows are "{there[0]}"' if len(there) == 1 and len(classes) > 1 else "too few rows"
    if result["task"] == "regression":
        why = f"all {result['rows']} rows have the same value"
    return [f"{name}: {', '.join(lacking)}: n/a, {why}"]
