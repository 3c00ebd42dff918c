"""Columns of tables as numbers, strings and lists of strings, whatever their Arrow type: a CSV has strings only.

The same functions read training rows, new rows and single rows, so that a value means the same in all of them.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NO_NUMBER = ("", "nan", "na", "n/a", "null", "none", "-", "?", "missing", "缺失", "无")  # lower-case
NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
DATE = (
    r"^\d{4}([-/.]\d{1,2}[-/.]\d{1,2}|年\d{1,2}月\d{1,2}日)([ T]\d{1,2}:\d{2}(:\d{2})?(\.\d+)?(Z|[-+]\d{2}:?\d{2})?)?$"
)
SEPARATORS = re.compile(r"\s*[;；|]\s*")  # of several labels in one cell
FARTHEST = 1e6  # stds from the mean; only errors of the table are farther
_DAY = 86_400.0


def as_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as strings with their ends stripped; empty ones are null.

    Equal values are equal strings whatever wrote them: 3, "3" and "3.0" are "3", True and "True" are "true".
    """
    kind = column.type
    if is_list(kind):
        return pa.chunked_array([pa.array([join(cell) for cell in as_lists(column)], pa.string())])
    if pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.chunked_array([pa.nulls(len(column), pa.string())])
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    text = pc.if_else(pc.equal(text, ""), None, text)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = pc.replace_substring_regex(text, r"^(-?\d+)\.0+$", r"\1")
        lower = pc.ascii_lower(text)
        text = pc.if_else(pc.is_in(lower, pa.array(["true", "false"])), lower, text)
    return text


def as_numbers(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values as numbers, dates as days since 1970-01-01.

    Returns:
        (rows,) float64, NaN where there is none; and (rows,) bool, True where a cell holds something that is no finite
        number, and not just a word for a missing one.
    """
    kind = column.type
    if pa.types.is_temporal(kind):
        return _filled(_days(column)), np.zeros(len(column), bool)
    if pa.types.is_null(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return np.full(len(column), np.nan), _filled(column.is_valid().cast(pa.float64())).astype(bool)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _parsed(column)
    values = _filled(column.cast(pa.float64()))
    infinite = np.isinf(values)
    return np.where(infinite, np.nan, values), infinite


def _parsed(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    text = pc.utf8_trim_whitespace(column)
    is_number = pc.match_substring_regex(text, NUMBER)
    # Arrow's parser takes no leading plus.
    values = _filled(pc.replace_substring_regex(pc.if_else(is_number, text, None), r"^\+", "").cast(pa.float64()))
    is_date = pc.match_substring_regex(text, DATE)
    if pc.any(is_date).as_py():
        values = np.where(np.isnan(values), _filled(_parsed_days(pc.if_else(is_date, text, None))), values)
    absent = pc.is_in(pc.utf8_lower(text), pa.array([*NO_NUMBER, None], pa.string())).to_numpy()
    values[np.isinf(values)] = np.nan  # 1e999
    return values, np.isnan(values) & ~absent


def _parsed_days(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Days of dates as `DATE` writes them; of a time zone nothing is read: the clock of the place counts."""
    parts = pc.extract_regex(
        text,
        r"^(?P<y>\d{4})[-/.年](?P<m>\d{1,2})[-/.月](?P<d>\d{1,2})日?(?:[ T](?P<h>\d{1,2}):(?P<n>\d{2}))?",
    )
    year, month, day, hour, minute = (pc.struct_field(parts, name) for name in "ymdhn")
    plain = pc.binary_join_element_wise(year, pc.utf8_lpad(month, 2, "0"), pc.utf8_lpad(day, 2, "0"), "-")
    moment = pc.strptime(plain, format="%Y-%m-%d", unit="s", error_is_null=True)
    is_real = pc.equal(pc.strftime(moment, format="%Y-%m-%d"), plain)  # the 31st of February is read as March otherwise
    days = _days(pc.if_else(is_real, moment, None))
    clock = [pc.if_else(pc.equal(part, ""), "0", part).cast(pa.float64()) for part in (hour, minute)]
    return pc.add(days, pc.add(pc.divide(clock[0], 24.0), pc.divide(clock[1], 1440.0)))


def _days(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_time(column.type) or pa.types.is_duration(column.type):
        return pa.chunked_array([pa.nulls(len(column), pa.float64())])
    return pc.divide(column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()).cast(pa.float64()), _DAY)


def mean_and_std(known: NDArray[np.float64]) -> tuple[float, float]:
    """Of finite numbers of any size; a std of 0 stands for equal ones, also when they differ by rounding only."""
    # Squares of what is very large or small leave the range of floats; a power of two changes no digit.
    unit = np.ldexp(1.0, int(np.frexp(np.abs(known).max())[1]) - 1)
    near_one = known / unit
    if np.ptp(near_one) <= 1e-12:
        return float(known[0]), 0.0
    return float(near_one.mean() * unit), float(near_one.std() * unit)


def scaled(values: NDArray[Any], mean: float | Sequence[float], std: float | Sequence[float]) -> NDArray[np.float32]:
    """(values - mean) / std, at most `FARTHEST` stds away, so that it stays finite; 0 where there is no value."""
    with np.errstate(over="ignore"):
        far: NDArray[np.float64] = (values.astype(np.float64) - np.asarray(mean)) / np.asarray(std)
    return np.nan_to_num(far).clip(-FARTHEST, FARTHEST).astype(np.float32)


def _filled(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.array(column.fill_null(np.nan).to_numpy(), np.float64)


def as_lists(column: pa.ChunkedArray) -> list[list[str] | None]:
    """Values as lists of strings: lists, JSON in a string, or labels joined by `SEPARATORS`.

    None where the cell is empty; an empty list says that there is none. Of a list of objects, as VQA v2
    writes its answers, the entry "answer" counts.
    """
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return [None if cell is None or not cell.strip() else _split(cell) for cell in column.to_pylist()]
    if is_list(column.type):
        return [None if cell is None else _flat(cell) for cell in column.to_pylist()]
    return [None if cell is None else [cell] for cell in as_strings(column).to_pylist()]


def _split(cell: str) -> list[str] | None:
    if (value := parsed_json(cell)) is not None and isinstance(value, list):
        return _flat(value)
    return [part for part in SEPARATORS.split(cell.strip()) if part] or None


def _flat(cell: Sequence[Any]) -> list[str]:
    values = [item.get("answer") if isinstance(item, dict) else item for item in cell]
    return [
        ("true" if value else "false") if isinstance(value, bool) else str(value)
        for value in values
        if value is not None
    ]


def parsed_json(cell: Any) -> Any:
    """What a string that begins as a JSON list or object stands for, else None."""
    if not isinstance(cell, str) or not cell.lstrip().startswith(("[", "{")):
        return None
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return None


def join(words: Sequence[str] | None) -> str | None:
    """Words as one text: a space between them, but not between Chinese characters."""
    if not words:
        return None
    return "".join(f" {word}" if gap else word for word, gap in zip(words, gaps(words), strict=True))


def gaps(words: Sequence[str]) -> list[bool]:
    """Whether a space stands before each word."""
    return [
        place > 0 and not (words[place - 1] and word and _is_chinese(words[place - 1][-1]) and _is_chinese(word[0]))
        for place, word in enumerate(words)
    ]


def _is_chinese(character: str) -> bool:
    return "\u3000" <= character <= "\u303f" or "\u3400" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef"


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
