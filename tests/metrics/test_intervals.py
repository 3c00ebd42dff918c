"""Bootstrap intervals: against the normal approximation, and what must always hold."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from polymodal.metrics import intervals
from polymodal.metrics.intervals import bootstrap, mean_of, median_of


def test_it_agrees_with_the_normal_interval_of_a_share() -> None:
    hits = np.arange(400) < 120  # a share of 0.3
    low, high = bootstrap(mean_of(hits.astype(float)), 400, resamples=4000)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.005)


def test_a_lower_level_is_narrower() -> None:
    mean = mean_of(np.random.default_rng(0).normal(size=50))
    wide, narrow = bootstrap(mean, 50, level=0.95), bootstrap(mean, 50, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_the_interval_of_the_median_is_that_of_a_plain_loop(ranks: list[int]) -> None:
    values = np.array(ranks, float)
    rows = np.random.default_rng(5).integers(len(values), size=(20, len(values)))
    medians = sorted(float(np.median([ranks[i] for i in row])) for row in rows)
    low, high = bootstrap(median_of(values), len(values), resamples=20, seed=5, level=1.0)
    assert (low, high) == (medians[0], medians[-1])


def test_equal_values_have_no_width() -> None:
    assert bootstrap(mean_of(np.full(7, 0.25)), 7) == (0.25, 0.25)


def test_a_seed_repeats_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mean = mean_of(np.random.default_rng(1).normal(size=40))
    plain = bootstrap(mean, 40, seed=3)
    assert plain != bootstrap(mean, 40, seed=4)
    monkeypatch.setattr(intervals, "_DRAWN_AT_ONCE", 100)
    assert bootstrap(mean, 40, seed=3) == pytest.approx(plain)


def test_every_resample_draws_as_many_rows_as_there_are() -> None:
    drawn: list[NDArray[np.int64]] = []

    def statistic(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        drawn.append(rows)
        return np.zeros(len(rows))

    bootstrap(statistic, 9, resamples=200)
    assert [rows.shape for rows in drawn] == [(200, 9)]
    assert set(np.unique(drawn[0])) == set(range(9))
