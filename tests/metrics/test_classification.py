"""Classification metrics against scikit-learn and small cases by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score, top_k_accuracy_score

from polymodal.errors import DataError
from polymodal.metrics.classification import confusion, macro_f1, per_class, resampled_macro_f1, top_k_hits

labels_and_predictions = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_is_scikit_learns_where_nothing_ties(k: int) -> None:
    draw = np.random.default_rng(0)
    scores, labels = draw.normal(size=(40, 6)), draw.integers(6, size=40)
    expected = top_k_accuracy_score(labels, scores, k=k, labels=range(6))
    assert top_k_hits(k, scores, labels).mean() == pytest.approx(expected)


def test_equal_scores_count_against() -> None:
    assert not top_k_hits(1, np.zeros((1, 3)), np.array([0])).any()


@given(labels_and_predictions)
def test_every_resample_has_scikit_learns_macro_f1(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = np.array(pairs).T
    rows = np.random.default_rng(0).integers(len(pairs), size=(3, len(pairs)))
    expected = [f1_score(labels[r], predictions[r], average="macro", zero_division=0) for r in rows]
    assert resampled_macro_f1(labels, predictions, rows) == pytest.approx(expected)
    assert macro_f1(labels, predictions) == resampled_macro_f1(labels, predictions, np.arange(len(pairs))[None])[0]


def test_per_class_by_hand() -> None:
    table = per_class(np.array([0, 0, 0, 2]), np.array([0, 0, 1, 0]), ["cat", "dog", "fox"])
    assert [row["class"] for row in table] == ["cat", "fox"]  # no row is a dog
    assert table[0] == {
        "class": "cat", "precision": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3), "rows": 3,
    }  # fmt: skip
    assert table[1]["recall"] == 0


def test_confusion_is_scikit_learns() -> None:
    draw = np.random.default_rng(2)
    labels, predictions = draw.integers(4, size=(2, 60))
    assert (confusion(labels, predictions, 5) == confusion_matrix(labels, predictions, labels=range(5))).all()


def test_it_does_not_count_what_is_not_a_number() -> None:
    with pytest.raises(DataError, match="1 of 2 scores are not finite"):
        top_k_hits(1, np.array([[np.nan, 0.1]]), np.array([0]))
