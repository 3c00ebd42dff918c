"""One value, one meaning, whatever the column's type."""

import datetime
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.data.values import as_lists, as_numbers, as_strings, gaps, join


def column(values: list[Any]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_a_number_written_as_text_is_the_same_number(numbers: list[float]) -> None:
    values, refused = as_numbers(column([repr(number) for number in numbers]))
    assert values.tolist() == numbers
    assert not refused.any()


def test_what_is_no_number_is_missing_and_only_what_was_not_meant_so_is_refused() -> None:
    values, refused = as_numbers(column([" 1.5", "+2", "", "NaN", "n/a", None, "abc", "inf", "1e999"]))
    assert values[:2].tolist() == [1.5, 2.0]
    assert all(map(math.isnan, values[2:]))
    assert refused.tolist() == [False] * 6 + [True] * 3


def test_infinite_floats_are_refused_and_nan_is_missing() -> None:
    values, refused = as_numbers(column([1.0, float("inf"), float("nan"), None]))
    assert values[0] == 1.0
    assert all(map(math.isnan, values[1:]))
    assert refused.tolist() == [False, True, False, False]


@pytest.mark.parametrize("text", ["1970-01-03", "1970/1/3", "1970年1月3日", "1970.01.03"])
def test_dates_are_days(text: str) -> None:
    assert as_numbers(column([text]))[0].tolist() == [2.0]
    assert as_numbers(column([datetime.date(1970, 1, 3)]))[0].tolist() == [2.0]


def test_a_clock_is_part_of_a_day_and_a_day_that_is_not_is_refused() -> None:
    values, refused = as_numbers(column(["1970-01-02 06:00:00", "2024-02-31"]))
    assert values[0] == 1.25
    assert refused.tolist() == [False, True]
    assert as_numbers(column([datetime.datetime(1970, 1, 2, 6)]))[0].tolist() == [1.25]


def test_equal_values_are_equal_strings() -> None:
    as_text = as_strings(column([" a ", "3.0", "True", "", "2.50", None])).to_pylist()
    assert as_text == ["a", "3", "true", None, "2.50", None]
    assert as_strings(column([True])).to_pylist() == ["true"]
    assert as_strings(column([3, None])).to_pylist() == ["3", None]
    assert as_strings(column([3.0, 2.5])).to_pylist() == ["3", "2.5"]


def test_lists_are_lists_json_or_joined() -> None:
    given = column(["a; b|c", '["x", "y"]', '[{"answer": "yes"}, {"answer": "no"}]', "", "[]", "one", None])
    assert as_lists(given) == [["a", "b", "c"], ["x", "y"], ["yes", "no"], None, [], ["one"], None]
    assert as_lists(column([["a", None], [], None])) == [["a"], [], None]


def test_words_join_with_spaces_but_not_between_chinese_ones() -> None:
    assert join(["我", "们", "用", "Python", "写"]) == "我们用 Python 写"
    assert gaps(["我", "们", "ok", "go"]) == [False, False, True, True]
    assert join([]) is None
