"""Co-training on two independent views: it beats each view, not the whole truth, and equal views gain nothing."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from polymodal.errors import DataError
from polymodal.objectives.cotraining import CoTrained, cotrain

Rows = NDArray[np.float64]
SEEDS = range(6)


def two_views(seed: int, rows: int = 1000, classes: int = 2) -> tuple[Rows, Rows, NDArray[np.int64]]:
    """Conditionally independent given the label: each view is the class's corner of a cube and noise of its own."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=rows)
    corners = 1.6 * np.eye(classes, 4)
    first, second = (corners[labels] + draw.normal(size=(rows, 4)) for _ in range(2))
    return first, second, labels


def accuracy(found: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    return float((found == labels).mean())


def few(labels: NDArray[np.int64], each: int = 5) -> NDArray[np.bool_]:
    known = np.zeros(len(labels), bool)
    for one in np.unique(labels):
        known[np.flatnonzero(labels == one)[:each]] = True
    return known


def scores(seed: int, identical: bool = False) -> tuple[float, float, float]:
    """Accuracy on new rows: of both views on the labels alone, after co-training, and with all labels known."""
    first, second, labels = two_views(seed)
    new_first, new_second, new_labels = two_views(seed + 100)
    if identical:
        second, new_second = first, new_first
    known = few(labels)
    views, pair = (first, second), (LogisticRegression(), LogisticRegression())
    alone = [
        accuracy(LogisticRegression().fit(view[known], labels[known]).predict(new), new_labels)
        for view, new in ((first, new_first), (second, new_second))
    ]
    taught = cotrain(views, np.where(known, labels, -9), known, pair, rounds=60, quota={0: 2, 1: 2}, seed=seed)
    full = cotrain(views, labels, np.ones(len(labels), bool), pair)
    return (
        max(alone),
        accuracy(taught.predict(new_first, new_second), new_labels),
        accuracy(full.predict(new_first, new_second), new_labels),
    )


@cache
def means(identical: bool) -> tuple[float, float, float]:
    alone, taught, full = np.mean([scores(seed, identical) for seed in SEEDS], axis=0).tolist()
    return alone, taught, full


def test_it_beats_each_view_and_is_beaten_by_all_labels() -> None:
    alone, taught, full = means(False)
    assert taught > alone + 0.06
    assert full > taught


def test_equal_views_have_nothing_to_teach() -> None:
    """What is left of the gain is that of teaching oneself."""
    alone, taught, _ = means(True)
    assert taught - alone < 0.03


def test_labels_that_were_given_stay() -> None:
    first, second, labels = two_views(0, 200, classes=3)
    known = few(labels)
    found = cotrain((first, second), labels, known, (LogisticRegression(), LogisticRegression()), rounds=5, pool=30)
    assert isinstance(found, CoTrained)
    assert (found.labels[known] == labels[known]).all()
    assert (found.labels >= 0).sum() == known.sum() + sum(found.added)
    assert len(found.added) == 5
    assert all(count <= 2 * 3 for count in found.added)
    assert found.predict_proba(first, second).shape == (200, 3)


def test_quotas_follow_the_ratio_of_labels() -> None:
    first, second, labels = two_views(1, 400)
    known = np.zeros(400, bool)
    known[np.flatnonzero(labels == 0)[:9]] = True
    known[np.flatnonzero(labels == 1)[:3]] = True
    pair = (LogisticRegression(), LogisticRegression())
    found = cotrain((first, second), labels, known, pair, rounds=1, confidence=0.0)
    new = found.labels[~known]
    assert 3 <= (new == 0).sum() <= 6  # three of each view, some of them the same
    assert 1 <= (new == 1).sum() <= 2


def test_it_ends_when_nothing_is_left_or_nobody_is_sure() -> None:
    first, second, labels = two_views(2, 30)
    known = few(labels)
    pair = (LogisticRegression(), LogisticRegression())
    assert (cotrain((first, second), labels, known, pair, rounds=99, confidence=0.0).labels >= 0).all()
    unsure = cotrain((first, second), labels, known, pair, confidence=1.1)
    assert unsure.added == []
    assert (unsure.labels[~known] == -1).all()
    everything = cotrain((first, second), labels, np.ones(30, bool), pair)
    assert everything.added == []


def test_a_seed_repeats() -> None:
    first, second, labels = two_views(3, 200)
    known, pair = few(labels), (LogisticRegression(), LogisticRegression())
    one, other = (cotrain((first, second), labels, known, pair, rounds=5, seed=4).labels for _ in range(2))
    assert (one == other).all()


def test_what_cannot_be_taught_says_why() -> None:
    first, second, labels = two_views(0, 20)
    pair, known = (LogisticRegression(), LogisticRegression()), np.ones(20, bool)
    with pytest.raises(DataError, match="must have as many rows, got 20, 19, 20 and 20"):
        cotrain((first, second[1:]), labels, known, pair)
    with pytest.raises(DataError, match="known labels of two classes or more, got 1"):
        cotrain((first, second), np.zeros(20, np.int64), known, pair)
    with pytest.raises(DataError, match="the quota names class 7, of which no label is known"):
        cotrain((first, second), labels, known, pair, quota={7: 1})
