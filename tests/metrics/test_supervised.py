"""The report of each task: values by hand, unknown labels, and cases in which nothing is defined."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, r2_score

from polymodal.errors import DataError
from polymodal.features import Task
from polymodal.metrics.supervised import MAIN_METRIC, decide, measure, probabilities, report

ALL = np.ones(4, bool)


def test_binary() -> None:
    logits = torch.tensor([[2.0], [-1.0], [0.5], [-3.0], [99.0]])
    labels = torch.tensor([1.0, 1.0, 0.0, 0.0, math.nan])
    known = torch.tensor([True, True, True, True, False])
    found = report("binary", logits, labels, known, ("no", "yes"), with_curves=True)
    assert found["rows"] == 4
    assert found["accuracy"] == found["balanced_accuracy"] == found["precision"] == found["recall"] == 0.5
    assert found["specificity"] == found["f1"] == found["majority"] == 0.5
    assert found["auroc"] == 0.75
    shares = [1 / (1 + math.exp(-x)) for x in (2, -1, 0.5, -3)]
    assert found["brier"] == pytest.approx(brier_score_loss([1, 1, 0, 0], shares))
    nats = [-math.log(p if y else 1 - p) for p, y in zip(shares, (1, 1, 0, 0), strict=True)]
    assert found["nll"] == pytest.approx(sum(nats) / 4)
    assert found["confusion"] == {"classes": ["no", "yes"], "counts": [[1, 1], [1, 1]]}
    assert [entry["class"] for entry in found["per_class"]] == ["no", "yes"]
    assert found["curves"]["roc"][-1] == [1, 1]


def test_binary_of_one_class_has_no_auroc() -> None:
    found = report("binary", np.array([[1.0], [-1.0]]), np.array([0.0, 0.0]), np.ones(2, bool), intervals=True)
    assert found["auroc"] is None
    assert found["average_precision"] is None
    assert found["recall"] is None
    assert found["f1"] is None
    assert found["accuracy"] == 0.5
    assert set(found["intervals"]) == {
        "accuracy", "balanced_accuracy", "precision", "specificity", "nll", "brier", "ece",
    }  # fmt: skip


def test_multiclass() -> None:
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(60, 7)), draw.integers(6, size=60)
    found = report("multiclass", logits, labels, np.ones(60, bool), [*"abcdefg"], intervals=True)
    said = logits.argmax(1)
    assert found["accuracy"] == found["f1_micro"] == pytest.approx((said == labels).mean())
    assert found["balanced_accuracy"] == pytest.approx(np.mean([(said[labels == c] == c).mean() for c in range(6)]))
    assert found["top5"] > found["accuracy"]
    assert sum(map(sum, found["confusion"]["counts"])) == 60
    low, high = found["intervals"]["accuracy"]
    assert low <= found["accuracy"] <= high


def test_multilabel_where_each_label_is_known_on_its_own() -> None:
    logits = np.array([[1.0, -1.0, 3.0], [2.0, 1.0, 3.0], [-1.0, 2.0, 3.0], [-2.0, -2.0, 3.0]])
    labels = np.array([[1.0, 0, math.nan], [0, 1, math.nan], [1, math.nan, math.nan], [0, 0, math.nan]])
    found = report("multilabel", logits, labels, ~np.isnan(labels), ("a", "b", "c"), intervals=True)
    first, second, third = found["per_label"]
    assert (first["rows"], second["rows"], third["rows"]) == (4, 3, 0)
    assert first["auroc"] == 0.5  # 1 beats -2 and loses to 2; -1 beats -2 and loses to 2
    assert second["auroc"] == 1.0
    assert third["auroc"] is third["f1"] is third["average_precision"] is None
    assert found["auroc"] == 0.75
    assert first["f1"] == 0.5
    assert found["f1_macro"] == 0.75
    assert found["f1_micro"] == pytest.approx(2 * 2 / (4 + 2))
    assert found["exact_match"] is None
    low, high = found["intervals"]["auroc"]
    assert 0 <= low <= 0.75 <= high <= 1


def test_regression_in_its_own_units() -> None:
    values, truth = np.array([[0.5], [1.0], [-1.0], [7.0]]), np.array([0.0, 1.5, -1.0, 2.0])
    known = np.array([True, True, True, False])
    found = report("regression", values, truth, known, std=10.0, intervals=True)
    assert found["rmse"] == pytest.approx(math.sqrt((25 + 25 + 0) / 3))
    assert found["mae"] == pytest.approx(10 / 3)
    assert found["r2"] == pytest.approx(r2_score(truth[:3], values[:3, 0]))
    assert set(found["intervals"]) == {"rmse", "mae", "r2"}
    assert report("regression", values, np.ones(4), ALL)["r2"] is None


def test_ordinal_counts_thresholds() -> None:
    logits = np.array([[3.0, 1.0, -1.0], [-1.0, -2.0, -3.0], [2.0, 2.0, 2.0], [1.0, -1.0, -1.0]])
    found = report("ordinal", logits, np.array([2, 0, 1, 1]), ALL, ("1", "2", "3", "4"))
    assert decide("ordinal", logits).tolist() == [2, 0, 3, 1]
    assert found["accuracy"] == 0.75
    assert found["mae"] == 0.5
    # Σ (i - j)² is 4 of what 4 rows would have by chance: 4 (var + var + (mean - mean)²) = 4 (0.5 + 1.25 + 0.25).
    assert found["kappa"] == pytest.approx(1 - 4 / 8)


def test_soft_answers() -> None:
    scores = np.array([[0.0, 0.3, 1.0], [0.6, 0.0, 0.0], [0.9, 0.0, 1.0], [0.0, 0.0, 0.0]])
    logits = np.array([[0.0, 5.0, 1.0], [5.0, 0.0, 0.0], [0.0, 0.0, 5.0], [1.0, 0.0, 0.0]])
    found = report("soft", logits, scores, np.array([True, True, True, False]))
    assert found["vqa_accuracy"] == pytest.approx((0.3 + 0.6 + 1.0) / 3)
    assert found["best"] == pytest.approx((1.0 + 0.6 + 1.0) / 3)


def test_tokens_with_entities() -> None:
    classes = ("O", "B-PER", "I-PER")
    labels = np.array([[0, 1, 2, 9], [1, 9, 2, 0]])
    known = np.array([[True, True, True, False], [True, False, True, True]])
    said = np.array([[0, 1, 2, 1], [1, 1, 1, 0]])
    logits = np.eye(3)[said]
    found = report("tokens", logits, labels, known, classes, intervals=True)
    assert found["rows"] == 6
    assert found["accuracy"] == pytest.approx(5 / 6)
    assert found["f1"] == pytest.approx(2 * 1 / (2 + 3))
    assert found["entities"] == 2
    sentences = np.repeat([0, 1], 4)
    flat = report(
        "tokens", logits.reshape(8, 3), labels.ravel(), known.ravel(), classes, sentences=sentences, intervals=True
    )
    assert flat == found
    low, high = found["intervals"]["f1"]
    assert (low, high) == (0.0, 1.0)


def test_tokens_of_other_classes() -> None:
    found = report("tokens", np.eye(2)[[0, 1, 1]], np.array([0, 1, 0]), np.ones(3, bool), ("NOUN", "VERB"))
    assert found["f1"] == found["accuracy"] == pytest.approx(2 / 3)
    assert found["f1_macro"] == pytest.approx(2 / 3)


EXAMPLES: dict[Task, tuple[Any, Any]] = {
    "binary": (np.array([[1.0], [-1.0], [2.0], [0.3]]), np.array([1.0, 0, 1, 0])),
    "multiclass": (np.eye(3)[[0, 1, 2, 1]], np.array([0, 1, 2, 2])),
    "multilabel": (np.eye(3)[[0, 1, 2, 1]] - 0.5, np.array([[1.0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0]])),
    "regression": (np.array([[1.0], [-1.0], [2.0], [0.3]]), np.array([1.0, 0, 1, 0])),
    "ordinal": (np.array([[1.0, -1.0], [-1.0, -2], [2.0, 1.0], [0.3, 0.2]]), np.array([1, 0, 2, 2])),
    "soft": (np.eye(3)[[0, 1, 2, 1]], np.array([[1.0, 0, 0.3], [0, 0.9, 0], [0, 0, 1], [1, 0.6, 0]])),
    "tokens": (np.eye(3)[[0, 1, 2, 1]], np.array([0, 1, 2, 2])),
}
NAMES: dict[Task, tuple[str, ...]] = {"binary": ("no", "yes"), "regression": (), "tokens": ("O", "B-X", "I-X")}


@pytest.mark.parametrize("task", EXAMPLES)
def test_every_task_has_its_main_number_and_plain_values(task: Task) -> None:
    predictions, targets = EXAMPLES[task]
    names = NAMES.get(task, ("a", "b", "c"))
    found = report(task, predictions, targets, ALL, names, intervals=True, with_curves=True)
    assert isinstance(found[MAIN_METRIC[task]], float)
    assert MAIN_METRIC[task] in found["intervals"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    given, labels, known = (torch.from_numpy(one) for one in (predictions, targets, ALL))
    assert report(task, given, labels, known, names) == report(task, predictions, targets, ALL, names)


@pytest.mark.parametrize("task", EXAMPLES)
def test_no_label_and_what_is_not_a_number(task: Task) -> None:
    predictions, targets = EXAMPLES[task]
    names = NAMES.get(task, ("a", "b", "c"))
    assert report(task, predictions, targets, np.zeros(4, bool), names) == {"rows": 0}
    broken = predictions.copy()
    broken[1] = math.inf
    with pytest.raises(DataError, match="1 of 4 predictions are not finite"):
        report(task, broken, targets, ALL, names)
    report(task, broken, targets, np.array([True, False, True, True]), names)


def test_probabilities_are_shares() -> None:
    logits = np.array([[2.0, 1.0, -1.0], [0.0, 1.0, 0.5]])  # the second row's thresholds cross
    for task in ("multiclass", "ordinal", "tokens"):
        shares = probabilities(task, logits)
        assert shares.sum(1).tolist() == pytest.approx([1, 1])
        assert (shares >= 0).all()
    assert probabilities("ordinal", logits).shape == (2, 4)
    yes = 1 / (1 + math.exp(-2))
    assert probabilities("binary", logits[:, :1])[0].tolist() == pytest.approx([1 - yes, yes])
    assert probabilities("multilabel", logits)[0, 0] == pytest.approx(yes)
    assert probabilities("regression", logits).tolist() == logits.tolist()


def test_decisions() -> None:
    logits = np.array([[2.0, 3.0, -1.0]])
    assert decide("binary", logits[:, :1]).tolist() == [1]
    assert decide("multilabel", logits).tolist() == [[1, 1, 0]]
    assert decide("multiclass", logits).tolist() == [1]
    with pytest.raises(DataError, match="a regression has no classes"):
        decide("regression", logits)


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "ordinal", "regression", "tokens"])
def test_a_resample_gives_what_a_report_of_its_rows_gives(task: Task) -> None:
    draw = np.random.default_rng(3)
    width = {"binary": 1, "regression": 1, "multiclass": 7, "multilabel": 3, "ordinal": 3, "tokens": 4}[task]
    shape = (40, 6) if task == "tokens" else (40,)
    predictions = draw.normal(size=(*shape, width)).round(1)  # with ties
    high = {"binary": 2, "multiclass": 6, "ordinal": 4, "tokens": 4}.get(task, 2)
    size = (40, 3) if task == "multilabel" else shape
    targets = draw.normal(size=40) if task == "regression" else draw.integers(high, size=size).astype(float)
    known = draw.random(size) < 0.8 if task == "multilabel" else np.ones(size, bool)
    if task == "multilabel":
        known[:, 0] = True  # rows of which nothing is known do not count at all
    classes = ("O", "B-A", "I-A", "B-B") if task == "tokens" else [*"abcdefg"][: max(2, width + (task == "ordinal"))]
    found = measure(task, predictions, targets, known, classes)
    rows = draw.integers(40, size=(2, 40))
    again = [report(task, predictions[row], targets[row], known[row], classes) for row in rows]
    scalars = {name for name, value in found.report.items() if isinstance(value, float)} - {"majority"}
    without = {
        "multiclass": {"auroc"},
        "multilabel": {"average_precision", "f1_macro"},
        "tokens": {"balanced_accuracy"},
    }
    assert set(found.statistics) == scalars - without.get(task, set())
    for name, statistic in found.statistics.items():
        assert statistic(np.arange(40)[None]).tolist() == pytest.approx([found.report[name]])
        assert statistic(rows).tolist() == pytest.approx([one[name] for one in again]), name
