import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from polymodal.metrics.ordinal import kappa_of, steps_off, weighted_kappa


def test_steps_off() -> None:
    assert steps_off(np.array([0, 2, 3]), np.array([2, 2, 1])).tolist() == [2, 0, 2]


def test_kappa_agrees_with_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    labels, predictions = draw.integers(4, size=50), draw.integers(4, size=50)
    assert weighted_kappa(labels, predictions) == pytest.approx(
        cohen_kappa_score(labels, predictions, weights="quadratic")
    )
    assert weighted_kappa(labels, labels) == 1
    rows = draw.integers(50, size=(5, 50))
    expected = [cohen_kappa_score(labels[row], predictions[row], weights="quadratic") for row in rows]
    assert kappa_of(labels, predictions)(rows).tolist() == pytest.approx(expected)


def test_one_class_has_no_kappa() -> None:
    assert weighted_kappa(np.zeros(3, np.int64), np.zeros(3, np.int64)) is None
    assert weighted_kappa(np.zeros(0, np.int64), np.zeros(0, np.int64)) is None
    assert weighted_kappa(np.zeros(3, np.int64), np.ones(3, np.int64)) == 0
