"""What is to be predicted: which task, which classes, which arrays."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.data.source import PlainRows, Rows, Trouble
from polymodal.data.targets import encode_target, infer_target, soft_scores
from polymodal.errors import DataError
from polymodal.features import Target, Task
from tests.data.tables import table


def column(folder: Path, values: list[Any]) -> Any:
    return table(folder, [{"y": value, "n": i} for i, value in enumerate(values)])


def encoded(target: Target, rows: list[dict[str, Any]]) -> tuple[list[Any], list[Any], list[str]]:
    """Values, which are known, and the faults."""
    source = PlainRows(rows)
    trouble = Trouble(source)
    values, known = encode_target(Rows(source), target, trouble).batch(torch.arange(len(rows)).numpy())
    return values.tolist(), known.tolist(), [str(fault) for fault in trouble.sorted()]


@pytest.mark.parametrize(
    ("values", "task", "classes", "reason"),
    [
        (["yes", "no"] * 5, "binary", ("no", "yes"), "two values"),
        ([True, False] * 5, "binary", ("false", "true"), "two values"),
        (["阳性", "阴性"] * 5, "binary", ("阴性", "阳性"), "two values"),
        (["b", "a", "c"] * 4, "multiclass", ("a", "b", "c"), "3 classes"),
        ([10, 9, 2] * 5, "multiclass", ("2", "9", "10"), "3 whole numbers"),
        ([0.5, 1.5, 2.5, 3.5], "regression", (), "values are numbers"),
        (list(range(30)), "regression", (), "values are numbers"),
        (["1.5", "2.5", "", "4"], "regression", (), "values are numbers"),
        ([["a", "b"], ["b"], []] * 5, "multilabel", ("a", "b"), "lists of labels, 2 different"),
        (["a;b", "b", "c; a"] * 10, "multilabel", ("a", "b", "c"), "lists of labels, 3 different"),
        ([["yes", "yes", "no"], ["2", "2", "2"]] * 3, "soft", ("2", "no", "yes"), "answers of several people"),
    ],
)  # fmt: skip
def test_the_task_follows_from_the_values(
    tmp_path: Path, values: list[Any], task: Task, classes: tuple[str, ...], reason: str
) -> None:
    target, why = infer_target(column(tmp_path, values), "y")
    assert (target.task, tuple(sorted(target.classes)) if task == "soft" else target.classes) == (task, classes)
    assert reason in why


def test_the_task_can_be_asked_for(tmp_path: Path) -> None:
    manifest = column(tmp_path, [1, 2, 3] * 5)
    assert infer_target(manifest, "y", "ordinal")[0].classes == ("1", "2", "3")
    assert infer_target(manifest, "y", "regression")[0].mean == 2.0


def test_labels_of_words_are_found_by_the_words_beside_them(tmp_path: Path) -> None:
    rows = [
        {"words": ["Ann", "lives", "in", "Rome"], "tags": ["B-PER", "O", "O", "B-LOC"]},
        {"words": ["我", "在", "北京"], "tags": ["O", "O", "B-LOC"]},
    ]
    target, reason = infer_target(table(tmp_path, rows), "tags")
    assert (target.task, target.classes) == ("tokens", ("O", "B-LOC", "B-PER"))
    assert reason == 'a label for each word of "words"'


def test_several_columns_are_labels_each_known_for_itself(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"edema": 1, "nodule": "no"},
        {"edema": 0, "nodule": None},
        {"edema": -1, "nodule": "yes"},
    ]
    target, _ = infer_target(table(tmp_path, rows), ["edema", "nodule"])
    assert (target.task, target.classes) == ("multilabel", ("edema", "nodule"))
    values, known, faults = encoded(target, rows)
    assert values == [[1, 0], [0, 0], [0, 1]]
    assert known == [[True, True], [True, False], [False, True]]
    assert faults == [
        'row 3, edema: "-1" is neither 0 nor 1, so the label is not known; correct the cell or leave it empty'
    ]


@pytest.mark.parametrize(
    ("values", "asked", "message"),
    [
        (["a", "b"], "yy", r't.jsonl: no column is named "yy"; did you mean "y"\?; there are: y, n'),
        (["a"] * 4, "y", r'target "y" has one class only \("a", 4 rows\), wanted two or more; add rows of another'),
        ([1.5] * 4 + [None], "y", r'target "y" has one class only \("1.5", 4 rows\)'),
        ([None] * 4, "y", r'target "y" has no value in any of the 4 training rows; fill it in'),
        ([f"text {i}" for i in range(50)], "y", r'target "y" has 50 different texts in 50 rows: neither numbers nor'),
        ([["a"], ["a"]], "y", 'target "y" has one class only'),
        ([[], []], "y", 'target "y" has no value in any of the 2 training rows'),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused(tmp_path: Path, values: list[Any], asked: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        infer_target(column(tmp_path, values), asked)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("binary", 'target "y" has 3 values, a binary target has two; use "multiclass"'),
        ("regression", 'target "y" has no number in any of 6 rows; choose another column or task'),
        ("tokens", 'task "tokens" needs another column with lists of words, as long as its own lists'),
    ],
)
def test_a_task_that_the_values_do_not_suit_is_refused(tmp_path: Path, task: Task, message: str) -> None:
    with pytest.raises(DataError, match=message):
        infer_target(column(tmp_path, ["a", "b", "c"] * 2), "y", task)


def test_several_columns_that_are_no_labels_are_refused(tmp_path: Path) -> None:
    manifest = table(tmp_path, [{"a": "u", "b": 0, "c": "v"}, {"a": "w", "b": 0, "c": "v"}])
    with pytest.raises(DataError, match="target a, c has no 0 or 1 in any of the 2 training rows"):
        infer_target(manifest, ["a", "c"])
    with pytest.raises(DataError, match="target a, b: every column has one class only, wanted 0 and 1 in one"):
        infer_target(manifest, ["a", "b"])
    with pytest.raises(DataError, match='several columns together are a multilabel target, got task "regression"'):
        infer_target(manifest, ["a", "b"], "regression")


# ---------------------------------------------------------------------------------------------------------------------
# Arrays


@given(st.lists(st.integers(-1000, 1000), min_size=2).filter(lambda values: len(set(values)) > 1))
def test_scaled_values_come_back(values: list[int]) -> None:
    mean = sum(values) / len(values)
    std = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    target = Target(columns=("y",), task="regression", mean=mean, std=std)
    scaled, known, _ = encoded(target, [{"y": value} for value in values])
    assert all(known)
    assert [value * std + mean for value in scaled] == pytest.approx(values, abs=1e-3)


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1))
def test_classes_come_back(values: list[str]) -> None:
    target = Target(columns=("y",), task="multiclass", classes=("a", "b", "c"))
    codes, known, _ = encoded(target, [{"y": value} for value in values])
    assert [target.classes[code] for code in codes] == values
    assert all(known)


def test_what_is_empty_or_no_class_is_not_known() -> None:
    target = Target(columns=("y",), task="binary", classes=("no", "yes"))
    values, known, faults = encoded(target, [{"y": "yes"}, {"y": ""}, {"y": "perhaps"}, {}])
    assert (values, known) == ([1.0, 0.0, 0.0, 0.0], [True, False, False, False])
    [fault] = faults
    assert fault.startswith('row 3, y: "perhaps" is no class of the training rows, so the target is not known; correct')
    scaled, known, faults = encoded(
        Target(columns=("y",), task="regression", mean=1, std=2), [{"y": 5.0}, {"y": float("inf")}, {"y": float("nan")}]
    )
    assert (scaled, known) == ([2.0, 0.0, 0.0], [True, False, False])
    assert faults[0].startswith('row 2, y: "inf" is no finite number, so the target is not known')


def test_a_table_without_the_target_has_it_unknown_everywhere() -> None:
    for target in (
        Target(columns=("y",), task="multiclass", classes=("a", "b", "c")),
        Target(columns=("y",), task="regression"),
        Target(columns=("y",), task="multilabel", classes=("a", "b", "c")),
        Target(columns=("y", "z"), task="multilabel", classes=("y", "z")),
        Target(columns=("y",), task="soft", classes=("a", "b")),
    ):
        _, known, faults = encoded(target, [{"x": 1}, {"x": 2}])
        assert not torch.tensor(known).any()
        assert not faults


def test_an_empty_list_says_that_no_label_holds_and_an_empty_cell_says_nothing() -> None:
    target = Target(columns=("y",), task="multilabel", classes=("a", "b"))
    values, known, faults = encoded(target, [{"y": ["b"]}, {"y": []}, {"y": None}, {"y": ["b", "new"]}])
    assert values == [[0, 1], [0, 0], [0, 0], [0, 1]]
    assert [row[0] for row in known] == [True, True, False, True]
    assert "has labels that no training row has; they count as nothing" in faults[0]


@pytest.mark.parametrize(("said", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_ten_answers_score_as_the_official_evaluation(said: int, score: float) -> None:
    answers = ["x"] * said + [f"other {i}" for i in range(10 - said)]
    assert soft_scores(answers)["x"] == pytest.approx(score)


@given(st.lists(st.sampled_from("abcd"), min_size=4, max_size=12))
def test_scores_are_means_over_people_who_are_left_out_in_turn(answers: list[str]) -> None:
    for answer, score in soft_scores(answers).items():
        accuracies = []
        for person in range(len(answers)):
            others = Counter(answers[:person] + answers[person + 1 :])
            accuracies.append(min(1, others[answer] / 3))
        assert score == pytest.approx(sum(accuracies) / len(accuracies))


def test_few_people_are_measured_by_what_they_can_reach() -> None:
    assert soft_scores(["a"]) == {"a": 1.0}
    assert soft_scores(["a", "b"]) == {"a": 0.5, "b": 0.5}
    assert soft_scores(["a", "a", "b"]) == pytest.approx({"a": 2 / 3, "b": 1 / 3})


def test_soft_targets_hold_the_scores_of_known_answers() -> None:
    target = Target(columns=("y",), task="soft", classes=("yes", "no", "2"))
    answers = ["Yes", "yes ", "no", "maybe"] + ["what"] * 6
    values, known, faults = encoded(target, [{"y": answers}, {"y": ["nobody knows"]}, {"y": []}])
    assert values[0] == pytest.approx([0.6, 0.3, 0.0])
    assert values[1] == [0, 0, 0]
    assert [row[0] for row in known] == [True, True, False]
    assert len(faults) == 1, "only the row of which no answer is known"
