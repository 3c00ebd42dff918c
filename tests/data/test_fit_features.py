"""What training rows teach, and nothing but training rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polymodal.data import Manifest
from polymodal.data.fit_features import MAX_VALUES, InputPlan, fit_features, infer_inputs
from polymodal.data.targets import infer_target
from polymodal.errors import DataError
from polymodal.features import Features, RecordInput, RegionsInput, SeriesInput, Target, TextInput
from tests.data.tables import table

BINARY = Target(columns=("y",), task="binary", classes=("no", "yes"))


def rows(count: int = 20, **columns: Any) -> list[dict[str, Any]]:
    """`columns`: functions of the row's place."""
    return [{"y": ["no", "yes"][i % 2]} | {name: value(i) for name, value in columns.items()} for i in range(count)]


def record(manifest: Manifest, *names: str) -> tuple[RecordInput, tuple[str, ...]]:
    fitted = fit_features(manifest, {"record": InputPlan("record", names, "")}, {})
    found = fitted.features.inputs["record"]
    assert isinstance(found, RecordInput)
    return found, fitted.notes


# ---------------------------------------------------------------------------------------------------------------------
# Which columns


def test_every_column_is_read_or_left_out_with_a_reason(tmp_path: Path) -> None:
    manifest = table(tmp_path, rows(
        image=lambda i: f"{i}.png", title=lambda i: f"a title, {i}", notes=lambda i: f"some words {i} and more",
        sound=lambda i: f"{i}.wav", sensor=lambda i: [i, 2.5], found=lambda i: f"{i}.npy", boxes=lambda i: f"{i}.npz",
        age=lambda i: i + 0.5, born=lambda i: f"1990-01-{i + 1:02}", color=lambda i: ["red", "blue"][i % 2],
        tags=lambda i: [["a", "b"], ["a"]][i % 2], uid=lambda i: f"id-{i}", link=lambda i: f"http://x/{i}",
        split=lambda i: "train", nothing=lambda i: None,
    ))  # fmt: skip
    inputs, left_out = infer_inputs(manifest, {"y": BINARY})
    assert {name: plan.columns for name, plan in inputs.items()} == {
        "image": ("image",),
        "audio": ("sound",),
        "series_sensor": ("sensor",),
        "series_found": ("found",),
        "regions": ("boxes",),
        "text": ("title", "notes", "tags"),
        "record": ("age", "born", "color"),
    }
    assert inputs["record"].reason == "numbers: 2, categories: 1"
    assert inputs["text"].reason == 'texts, read as lines of "name: text"'
    assert left_out.keys() == {"y", "uid", "link", "split", "nothing"}
    assert left_out["y"] == 'it is the target "y"'
    assert left_out["uid"].startswith("a name of the row says nothing about others")
    fitted = fit_features(manifest, {"text": inputs["text"], "record": inputs["record"]}, {"y": BINARY})
    again = Features.parse(json.loads(json.dumps(fitted.features.to_dict())), "artifact")
    assert again == fitted.features, "it travels in the artifact"


def test_columns_can_be_left_aside(tmp_path: Path) -> None:
    manifest = table(tmp_path, rows(a=lambda i: i, b=lambda i: i + 0.5))
    inputs, left_out = infer_inputs(manifest, {"y": BINARY}, ["b"])
    assert inputs["record"].columns == ("a",)
    assert left_out["b"] == "it is left aside, as asked"


def test_captions_are_read_one_at_a_time_and_labelled_words_are_a_text_of_their_own(tmp_path: Path) -> None:
    manifest = table(tmp_path, rows(captions=lambda i: [f"a dog {i}", f"an animal {i}"]))
    assert infer_inputs(manifest, {"y": BINARY}).inputs["text"].pick
    manifest = table(
        tmp_path,
        [{"words": ["Ann", "is", f"x{i}"], "tags": ["P", "O", "O"], "title": f"a title {i}"} for i in range(9)],
    )
    target, _ = infer_target(manifest, "tags")
    inputs, _ = infer_inputs(manifest, {"tags": target})
    assert {name: plan.columns for name, plan in inputs.items()} == {"text": ("words",), "more_text": ("title",)}
    renamed = fit_features(manifest, {"sentence": InputPlan("text", ("words",), "")}, {"tags": target})
    assert renamed.features.targets["tags"].text == "sentence"
    with pytest.raises(
        DataError, match='target "tags" labels the words of "words", which no text input reads alone; add'
    ):
        fit_features(manifest, {"text": InputPlan("text", ("words", "title"), "")}, {"tags": target})


def test_a_table_without_inputs_is_refused(tmp_path: Path) -> None:
    manifest = table(tmp_path, rows(uid=lambda i: f"u{i}"))
    with pytest.raises(DataError, match=r't.jsonl: no column is left to learn from \(y: it is the target "y"; uid: a'):
        infer_inputs(manifest, {"y": BINARY})
    manifest = table(tmp_path, rows(a=lambda i: 3))
    with pytest.raises(DataError, match="no input is left to learn from; a: left out, it is 3 in every training row"):
        fit_features(manifest, {"record": InputPlan("record", ("a",), "")}, {"y": BINARY})


def test_a_target_is_no_input(tmp_path: Path) -> None:
    manifest = table(tmp_path, rows(a=lambda i: f"some text {i}"))
    for plan in (InputPlan("text", ("a", "y"), ""), TextInput(columns=("a", "y"))):
        with pytest.raises(
            DataError, match=r'column "y" is the target "why" and part of the input "text", which would'
        ):
            fit_features(manifest, {"text": plan}, {"why": BINARY})
    with pytest.raises(DataError, match='no column is named "aa"; did you mean "a"'):
        fit_features(manifest, {"text": InputPlan("text", ("aa",), "")}, {})


# ---------------------------------------------------------------------------------------------------------------------
# What they teach


def test_numbers_teach_mean_and_std_without_what_is_no_number(tmp_path: Path) -> None:
    values = ["1", "3", "", "nan", "inf", "5"] * 3
    found, notes = record(table(tmp_path, [{"a": value} for value in values]), "a")
    assert found.numbers[0].mean == 3.0
    assert found.numbers[0].std == pytest.approx((8 / 3) ** 0.5)
    assert notes == (
        "a: 3 values are no finite numbers and count as missing",
        "a: 6 of 18 training rows have no value",
    )


def test_a_column_that_never_changes_is_left_out(tmp_path: Path) -> None:
    tenth = [0.1 + 0.2, 0.3] * 10  # equal but for rounding
    manifest = table(
        tmp_path, [{"a": 7, "b": i, "c": tenth[i], "d": "x", "e": None, "label": "same"} for i in range(20)]
    )
    found, notes = record(manifest, "a", "b", "c", "label")
    assert [number.name for number in found.numbers] == ["b"]
    assert found.categories == ()
    assert notes == (
        "a: left out, it is 7 in every training row that has it",
        "c: left out, it is 0.3 in every training row that has it",
        'label: left out, it is "same" in every training row',
    )


def test_numbers_of_any_size_have_a_std_above_zero(tmp_path: Path) -> None:
    found, _ = record(
        table(tmp_path, [{"a": 1e-200 * i, "b": 1e300 * (-1) ** i, "c": i} for i in range(9)]), "a", "b", "c"
    )
    assert all(np.isfinite(number.mean) and 0 < number.std < np.inf for number in found.numbers)


def test_values_stand_in_the_order_of_their_frequency_and_are_capped(tmp_path: Path) -> None:
    values = ["b"] * 3 + ["a"] * 2 + ["c"] * 3
    found, _ = record(table(tmp_path, [{"label": value} for value in values]), "label")
    assert found.categories[0].values == ("b", "c", "a")
    many = [str(i // 2) for i in range(2 * MAX_VALUES + 6)]
    found, notes = record(table(tmp_path, [{"label": f"v{value}"} for value in many]), "label")
    assert len(found.categories[0].values) == MAX_VALUES
    assert notes == ("label: the 1000 most frequent of 1003 values are known; the others (6 rows) count as unseen",)


def test_series_and_regions_teach_their_widths_from_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    steps = [rng.normal([5, 0], [2, 0], (600, 2)) for _ in range(3)]
    for i, one in enumerate(steps):
        np.save(tmp_path / f"{i}.npy", one)
        np.savez(
            tmp_path / f"{i}.npz",
            features=np.ones((40, 7)),
            boxes=np.tile([0, 0, 1, 1], (40, 1)),
            cls_prob=np.ones((40, 3)),
        )
    manifest = table(tmp_path, [{"s": f"{i}.npy", "boxes": f"{i}.npz"} for i in [0, 1, 2, 9]])
    plans = {"s": InputPlan("series", ("s",), ""), "r": InputPlan("regions", ("boxes",), "")}
    features, notes = fit_features(manifest, plans, {})
    series, regions = features.inputs["s"], features.inputs["r"]
    assert isinstance(series, SeriesInput)
    together = np.concatenate(steps)
    assert series.means == pytest.approx(together.mean(0), abs=1e-6)
    assert series.stds == pytest.approx([together[:, 0].std(), 1.0], abs=1e-6), "a constant channel is not divided"
    assert isinstance(regions, RegionsInput)
    assert (regions.width, regions.classes, regions.max_regions) == (7, 3, 36)
    assert "s: 1 of 4 looked at cannot be read, first: " in notes[0]
    assert "row 4, s: " in notes[0]
    assert notes[1] == "s: series of up to 600 steps are cut to 512"
    assert notes[3] == "boxes: of up to 40 regions the first 36 are read"


def test_other_rows_teach_nothing(tmp_path: Path) -> None:
    def fitted(folder: str, other: Any) -> Features:
        (tmp_path / folder).mkdir()
        train = [
            {"split": "train", "n": i, "c": "ab"[i % 2], "y": i * 0.5, "s": [i, 1], "t": f"text {i}"} for i in range(9)
        ]
        val = [{"split": "val", "n": other, "c": str(other), "y": other, "s": [other, other], "t": str(other)}]
        manifest = table(tmp_path / folder, train + val).split("train")
        target, _ = infer_target(manifest, "y")
        plans = {
            "record": InputPlan("record", ("n", "c"), ""),
            "series": InputPlan("series", ("s",), ""),
            "text": InputPlan("text", ("t",), ""),
        }
        return fit_features(manifest, plans, {"y": target}).features

    assert fitted("one", 1) == fitted("two", 1_000_000)
