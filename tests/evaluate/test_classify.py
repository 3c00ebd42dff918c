"""The probe and k-NN on vectors whose right answers are known."""

import math

import numpy as np
import pytest

from polymodal.errors import DataError
from polymodal.evaluate.classify import Labeled, linear_probe, nearest_neighbors


def blobs(count: int, spread: float, seed: int, names: str = "abc") -> Labeled:
    """`count` unit vectors of 5 numbers around an axis of their own for each name."""
    draw = np.random.default_rng(seed)
    labels = [names[n % len(names)] for n in range(count)]
    vectors = np.eye(5)[["abcde".index(name) for name in labels]] + spread * draw.normal(size=(count, 5))
    return Labeled((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels)


def shuffled(rows: Labeled, seed: int) -> Labeled:
    """The same vectors, with labels that say nothing."""
    return Labeled(rows.vectors, list(np.random.default_rng(seed).permutation(rows.names)))


def test_well_parted_classes_are_learned() -> None:
    train, test = blobs(60, 0.1, seed=0), blobs(30, 0.1, seed=1)
    assert linear_probe(train, None, test, seed=0)["metrics"]["accuracy"]["value"] == 1
    assert nearest_neighbors(train, test, seed=0)["metrics"]["accuracy"]["value"] == 1


def test_labels_that_say_nothing_are_at_chance() -> None:
    train, test = shuffled(blobs(300, 0.3, seed=0), 2), blobs(300, 0.3, seed=1)
    for result in (linear_probe(train, None, test, seed=0), nearest_neighbors(train, test, seed=0)):
        accuracy = result["metrics"]["accuracy"]
        assert accuracy["chance"] == pytest.approx(1 / 3)
        assert accuracy["value"] < 0.6


def test_the_strength_is_the_best_on_val() -> None:
    train, val, test = blobs(40, 0.6, seed=0), blobs(40, 0.6, seed=1), blobs(40, 0.6, seed=2)
    result = linear_probe(train, val, test, seed=0)
    assert result["accuracy_on_val_by_C"][result["C"]] == max(result["accuracy_on_val_by_C"].values())
    assert result["train_rows"] == 80
    assert result["converged"]


def test_val_chooses_and_test_does_not() -> None:
    train, val = blobs(40, 0.6, seed=0), blobs(40, 0.6, seed=1)
    chosen = [linear_probe(train, val, blobs(20, 0.9, seed=seed), seed=0)["C"] for seed in (3, 4, 5)]
    assert len(set(chosen)) == 1


def test_the_vote_is_that_of_a_plain_loop() -> None:
    train, test = blobs(50, 0.7, seed=3), blobs(40, 0.7, seed=4)
    hits = 0
    for vector, name in zip(test.vectors.tolist(), test.names, strict=True):
        cosines = [(sum(a * b for a, b in zip(vector, row, strict=True)), own) for row, own in zip(
            train.vectors.tolist(), train.names, strict=True)]  # fmt: skip
        votes = dict.fromkeys("abc", 0.0)
        for cosine, own in sorted(cosines, reverse=True)[:20]:
            votes[own] += math.exp(cosine / 0.07)
        hits += max(votes, key=votes.__getitem__) == name
    assert nearest_neighbors(train, test, seed=0)["metrics"]["accuracy"]["value"] == pytest.approx(hits / 40)


def test_two_votes_outweigh_one_that_is_a_little_nearer() -> None:
    cosines = [0.9, 0.86, 0.86]  # exp(0.04 / 0.07) = 1.77: less than two votes, more than one
    train = Labeled(np.array([[c, math.sqrt(1 - c * c)] for c in cosines], np.float32), ["a", "b", "b"])
    test = Labeled(np.array([[1, 0], [1, 0]], np.float32), ["a", "b"])
    assert nearest_neighbors(train, test, seed=0)["confusion"]["counts"] == [[0, 1], [0, 1]]
    pair = Labeled(train.vectors[:2], train.names[:2])
    assert nearest_neighbors(pair, test, seed=0)["confusion"]["counts"] == [[1, 0], [1, 0]]


def test_with_fewer_rows_than_neighbors_all_vote() -> None:
    assert nearest_neighbors(blobs(6, 0.1, seed=0), blobs(9, 0.1, seed=1), seed=0)["neighbors"] == 6


def test_a_class_that_train_does_not_have_counts_as_wrong() -> None:
    train, test = blobs(30, 0.1, seed=0, names="ab"), blobs(30, 0.1, seed=1, names="abd")
    for result in (linear_probe(train, None, test, seed=0), nearest_neighbors(train, test, seed=0)):
        assert result["classes_not_in_train"] == ["d"]
        assert result["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3)
        assert result["confusion"]["classes"] == ["a", "b", "d"]
        assert sum(result["confusion"]["counts"][2]) == 10


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="probe: wanted two classes or more, got 1: a"):
        linear_probe(blobs(9, 0.1, seed=0, names="a"), None, blobs(9, 0.1, seed=1), seed=0)
    with pytest.raises(DataError, match="knn: wanted two classes or more, got 1: a"):
        nearest_neighbors(blobs(9, 0.1, seed=0, names="a"), blobs(9, 0.1, seed=1), seed=0)


def test_a_class_of_one_row_cannot_be_parted() -> None:
    with pytest.raises(DataError, match="every class needs 2 rows of train or more, got 1 of one; make a val split"):
        linear_probe(blobs(4, 0.1, seed=0), None, blobs(9, 0.1, seed=1), seed=0)
