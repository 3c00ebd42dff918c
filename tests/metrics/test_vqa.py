"""Accuracy of answers: the official values, worked out annotator by annotator."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.metrics.vqa import normalize_answer, soft_scores, vqa_accuracy


@pytest.mark.parametrize(("count", "worth"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0), (10, 1.0)])
def test_the_official_values(count: int, worth: float) -> None:
    annotators = ["cat"] * count + ["dog"] * (10 - count)
    assert vqa_accuracy("cat", annotators) == pytest.approx(worth)


@given(st.lists(st.sampled_from(["red", "blue", "2"]), min_size=1, max_size=10), st.sampled_from(["red", "green"]))
def test_it_is_the_mean_over_annotators_left_out(annotators: list[str], answer: str) -> None:
    each = [min(1, (annotators[:i] + annotators[i + 1 :]).count(answer) / 3) for i in range(len(annotators))]
    assert vqa_accuracy(answer, annotators) == pytest.approx(sum(each) / len(each))


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("Two dogs.", "2 dogs"),
        ("the  Dog", "dog"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("couldntve", "couldn't've"),
        ("yes, it is", "yes it is"),
        ("black,white", "black white"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("t-shirt", "t shirt"),
        ("what?\n", "what"),
        ("an apple and a pear", "apple and pear"),
        ("两只狗", "两只狗"),
        ("", ""),
    ],
)
def test_answers_are_written_alike(written: str, normal: str) -> None:
    assert normalize_answer(written) == normal


def test_soft_targets_are_what_an_answer_is_worth() -> None:
    annotators = ["Two"] * 2 + ["2"] * 2 + ["three"] * 3 + ["a dog"] + ["cat", "Cat."]
    assert soft_scores(annotators) == pytest.approx({"2": 1.0, "3": 0.9, "dog": 0.3, "cat": 0.6})
    assert soft_scores([]) == {}
    assert {answer: vqa_accuracy(answer, annotators) for answer in ("2", "3", "dog", "cat")} == pytest.approx(
        soft_scores(annotators)
    )


def test_annotators_of_one_mind_are_compared_as_they_wrote() -> None:
    assert vqa_accuracy("2 dogs", ["Two dogs"] * 10) == 0
    assert vqa_accuracy("Two dogs", ["Two dogs"] * 10) == 1
    assert vqa_accuracy("2 dogs", ["Two dogs"] * 9 + ["cat"]) == 1
