"""What a column is taken for: the kinds beside pictures, texts, numbers and categories."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from polymodal.data import read
from polymodal.data.columns import inspect
from tests.data.files import picture_bytes, write_text


def kinds(root: Path | None = None, **columns: list[Any]) -> list[str]:
    return [column.modality for column in inspect(pa.table(columns), root)]


def test_sounds_are_told_from_pictures() -> None:
    wave = b"RIFF\x24\x00\x00\x00WAVEfmt "
    png = picture_bytes()
    assert kinds(a=["x/1.wav", "x/2.FLAC", "3.mp3"], b=[wave] * 3, c=[png] * 3) == ["audio", "audio", "image"]
    assert kinds(a=[{"bytes": wave, "path": None}], b=[{"bytes": None, "path": "1.ogg"}]) == ["audio", "audio"]
    assert kinds(a=[{"bytes": png, "path": "1.png"}]) == ["image"]


def test_series_are_arrays_or_lists_of_numbers() -> None:
    assert kinds(a=["1.npy", "2.npz"], b=["[1, 2.5]", "[3]"], c=["[[1, 2], [3, 4]]", "[[1, null]]"]) == ["series"] * 3
    assert kinds(a=[[1.0, 2.0], [3.0]], b=[[[1, 2], [3, 4]], [[5, 6]]]) == ["series", "series"]
    assert kinds(a=["[not json", "[1, 2"]) == ["text"]


def test_regions_are_known_by_name_or_by_what_the_file_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "1.npz", features=np.zeros((2, 3)), boxes=np.zeros((2, 4)))
    np.savez(tmp_path / "2.npz", values=np.zeros((2, 3)))
    assert kinds(tmp_path, found=["1.npz"] * 3) == ["regions"]
    assert kinds(tmp_path, found=["2.npz"] * 3) == ["series"]
    assert kinds(boxes=["gone.npz"] * 3) == ["regions"]
    assert kinds(a=['{"features": [[1]], "boxes": [[0, 0, 1, 1]]}'] * 3) == ["regions"]


def test_labels_are_few_short_and_never_twice_in_a_row() -> None:
    rows = [["cat", "dog"], ["dog"], ["cat"], ["bird", "cat"]] * 5
    joined = ["; ".join(row) for row in rows]
    assert kinds(a=rows, b=joined, c=[row.replace("; ", "|") for row in joined]) == ["labels"] * 3
    assert kinds(a=[["the", "cat", "the"]] * 20) == ["text"], "words of sentences repeat"
    assert kinds(a=[[f"caption {i}", f"another {i}"] for i in range(20)]) == ["text"]
    assert kinds(a=[f"first part {i}; second part {i}" for i in range(20)]) == ["text"]


def test_dates_and_numbers_with_gaps() -> None:
    dates, numbers = ["2024-01-02", "2024/1/3"] * 10, ["1.5", "NA", "nan", "-2"] * 5
    assert kinds(a=dates, b=numbers, c=["NA"] * 20) == ["date", "number", "category"]


def test_names_that_end_in_id_are_ids_unless_they_repeat() -> None:
    table: dict[str, Any] = {"patient_id": list(range(20)), "colorID": [1, 2] * 10, "acid": [i / 7 for i in range(20)]}
    assert kinds(**table) == ["id", "category", "number"]
    assert kinds(question=["what color is it?", "what shape is it?"] * 10) == ["text"]


@pytest.mark.parametrize("values", [["1; 2", "3"], ["v1.0", "v2.0"]])
def test_a_few_texts_stay_texts(values: list[str]) -> None:
    assert kinds(a=values)[0] in ("text", "labels")


def test_jsonl_brings_lists_of_numbers_through(tmp_path: Path) -> None:
    lines = "".join(f'{{"signal": [{i}, {i + 1}, 0.5], "labels": ["a", "b"]}}\n' for i in range(5))
    manifest = read(write_text(tmp_path / "t.jsonl", lines))
    assert [column.modality for column in manifest.columns] == ["series", "labels"]
