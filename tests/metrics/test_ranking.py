"""AUROC and its kin against pairs counted one by one, and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from polymodal.metrics.intervals import bootstrap
from polymodal.metrics.ranking import auroc, auroc_of, average_precision, curves

rows = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=12)


@settings(deadline=None)
@given(rows)
def test_auroc_is_the_share_of_pairs(rows: list[tuple[int, bool]]) -> None:
    positives, negatives = ([score for score, flag in rows if flag is kind] for kind in (True, False))
    found = auroc(np.array([score / 2 for score, _ in rows]), np.array([flag for _, flag in rows]))
    if not positives or not negatives:
        assert found is None
        return
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    assert found == pytest.approx(wins / len(positives) / len(negatives))


def test_resamples_are_what_they_are_one_by_one() -> None:
    draw = np.random.default_rng(0)
    scores, positive = draw.integers(0, 6, 40).astype(float), draw.random(40) < 0.3
    resamples = draw.integers(40, size=(20, 40))
    expected = [roc_auc_score(positive[row], scores[row]) for row in resamples]
    assert auroc_of(scores, positive)(resamples).tolist() == pytest.approx(expected)


def test_resamples_of_one_class_are_left_out() -> None:
    scores, positive = np.array([0.1, 0.9, 0.5]), np.array([False, True, False])
    low, high = bootstrap(auroc_of(scores, positive), 3)
    assert low == high == 1.0


def test_no_rows_and_one_class_have_no_value() -> None:
    assert auroc(np.zeros(0), np.zeros(0, bool)) is None
    assert average_precision(np.ones(2), np.zeros(2, bool)) is None
    assert curves(np.ones(2), np.ones(2, bool)) == {"roc": [], "pr": []}


def test_average_precision_by_hand() -> None:
    scores, positive = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores, positive) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_curves_begin_and_end_where_they_should() -> None:
    draw = np.random.default_rng(0)
    found = curves(draw.random(1000), draw.random(1000) < 0.5, points=30)
    assert len(found["roc"]) <= 30
    assert found["roc"][0] == [0, 0]
    assert found["roc"][-1] == [1, 1]
    assert found["pr"][-1] == [0, 1]
