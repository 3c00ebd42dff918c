"""Calibration against a published example, plain floats, and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss

from polymodal.errors import DataError
from polymodal.metrics.calibration import (
    brier,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    two_classes,
)

SHARES = np.array([(0.9, 0.05, 0.05), (0.6, 0.3, 0.1), (0.2, 0.5, 0.3), (0.4, 0.35, 0.25), (0.1, 0.1, 0.8)])
LABELS = np.array([0, 1, 1, 0, 2])


@pytest.mark.parametrize("bins", [10, 15])
def test_a_known_error_of_calibration(bins: int) -> None:
    assert expected_calibration_error(reliability(SHARES, LABELS, bins)) == pytest.approx(0.4)


def test_bins_have_their_upper_bound_and_not_their_lower_one() -> None:
    shares = np.array([(0.5, 0.5), (0.75, 0.25), (0.76, 0.24), (1.0, 0.0)])
    bins = reliability(shares, np.array([0, 1, 0, 0]), bins=4)
    assert [(one["low"], one["high"], one["rows"], one["accuracy"]) for one in bins] == [
        (0.25, 0.5, 1, 1.0),
        (0.5, 0.75, 1, 0.0),
        (0.75, 1.0, 2, 1.0),
    ]
    assert bins[2]["confidence"] == pytest.approx(0.88)


def test_brier_in_plain_floats() -> None:
    expected = (0.1**2 + 2 * 0.05**2) + (0.6**2 + 0.7**2 + 0.1**2)
    assert brier(SHARES[:2], LABELS[:2]) == pytest.approx(expected / 2)


def test_likelihood_agrees_with_scikit_learn() -> None:
    assert negative_log_likelihood(np.log(SHARES), LABELS) == pytest.approx(log_loss(LABELS, SHARES))
    sure = np.array([[1000.0, 0.0], [0.0, 1000.0]])
    assert negative_log_likelihood(sure, np.array([0, 0])) == pytest.approx(500)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    draw = np.random.default_rng(0)
    honest = draw.normal(size=(4000, 4)) * 2
    shares = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    labels = (draw.random((4000, 1)) > shares.cumsum(1)).sum(1).clip(max=3)
    found = fit_temperature(honest * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.1)
    before, after = (negative_log_likelihood(honest * temperature / t, labels) for t in (1.0, found))
    assert after <= before


def test_a_binary_target_has_two_classes() -> None:
    logits = two_classes(np.array([0.5, -2.0]))
    expected = [math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(2.0))]
    assert negative_log_likelihood(logits, np.array([1, 1])) == pytest.approx(sum(expected) / 2)


def test_no_row_has_no_temperature() -> None:
    with pytest.raises(DataError, match="wanted finite logits of one row or more, got 0 rows"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, np.int64))
