"""`ablate`: what each input is worth, on a small real run and on a model whose worth is known."""

import json
from pathlib import Path

import pytest
from PIL import Image

import polymodal as pm
from polymodal.engine import Predictor, load_predictor
from polymodal.errors import DataError
from polymodal.evaluate import Ablation, ablate
from polymodal.evaluate.ablation import subsets
from tests.evaluate import homes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, homes.csv beside it; not to be changed."""
    folder = tmp_path_factory.mktemp("homes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYMODAL_CACHE", str(folder / "cache"))
        return homes.run(folder, 120, 2).folder


@pytest.fixture(scope="module")
def found(run: Path) -> Ablation:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYMODAL_CACHE", str(run.parent / "cache"))
        return ablate(run, run.parent / "homes.csv", split="all")


def test_every_subset_is_what_a_table_without_the_other_columns_gives(run: Path, found: Ablation) -> None:
    predictor = load_predictor(run)
    assert [one["inputs"] for one in found.table("price")] == [
        ["photo"], ["notes"], ["record"], ["photo", "notes"], ["photo", "record"], ["notes", "record"],
        ["photo", "notes", "record"],
    ]  # fmt: skip
    columns = {"photo": ["photo"], "notes": ["notes"], "record": ["size", "age", "街区"]}
    lines = homes.rows(120)
    for one in found.table("city")[:6]:
        kept = [name for part in one["inputs"] for name in columns[part]]
        rows = [
            {name: str(run.parent / line[name]) if name == "photo" and line[name] else line[name] for name in kept}
            for line in lines
        ]
        answers = predictor.predict(rows).predictions
        right = [answer["city"].value == line["city"] for answer, line in zip(answers, lines, strict=True)]
        assert one["value"] == pytest.approx(sum(right) / 120)
        assert one["low"] <= one["value"] <= one["high"]


def test_all_inputs_are_what_evaluate_measures(run: Path, found: Ablation) -> None:
    report = pm.evaluate(run, run.parent / "homes.csv", split="all")
    for target, result in found.data["subsets"][-1]["targets"].items():
        for metric, measured in result.items():
            assert measured["value"] == report.metrics[f"{target}/{metric}"]


def test_it_says_how_often_an_input_is_there(found: Ablation) -> None:
    present = {name: one["present"] for name, one in found.data["inputs"].items()}
    assert present == {"photo": 102 / 120, "notes": 96 / 120, "record": 1.0}
    by_inputs = {tuple(one["inputs"]): one["rows"] for one in found.data["subsets"]}
    assert by_inputs["photo",] == 102 / 120
    assert by_inputs["photo", "notes"] == sum(bool(n % 7 or n % 5) for n in range(120)) / 120
    assert "were trained on" in found.data["warnings"][0]


def test_files_and_plots(found: Ablation, tmp_path: Path) -> None:
    paths = found.write(tmp_path / "out")
    assert [path.name for path in paths] == ["ablation.json", *(f"ablation-{name}.png" for name in homes.TARGETS)]
    assert json.loads(paths[0].read_text("utf-8")) == found.data
    with Image.open(paths[1]) as picture:
        assert picture.width == 1050
    (tmp_path / "file").write_text("a file")
    with pytest.raises(DataError, match="file: the ablation cannot be written"):
        found.write(tmp_path / "file")


def test_an_input_that_no_row_has_is_left_out_and_said(run: Path, tmp_path: Path) -> None:
    lines = [{key: value for key, value in line.items() if key != "photo"} for line in homes.rows(20, seed=3)]
    data = ablate(run, homes.write(tmp_path / "a.csv", lines)).data
    assert [one["inputs"] for one in data["subsets"]] == [["notes"], ["record"], ["notes", "record"]]
    assert "photo: in none of these rows, so it is left out of the subsets" in data["notes"]


def test_nothing_to_compare_with_is_refused(run: Path, tmp_path: Path) -> None:
    lines = [line | dict.fromkeys(homes.TARGETS, "") for line in homes.rows(10)]
    with pytest.raises(DataError, match="no row has a value of a target: there is nothing to compare with"):
        ablate(run, homes.write(tmp_path / "a.csv", lines))
    lines = [line | dict.fromkeys(("photo", "notes", "size", "age", "街区"), "") for line in homes.rows(10)]
    with pytest.raises(DataError, match="no row has any of the inputs photo, notes, record"):
        ablate(run, homes.write(tmp_path / "a.csv", lines))


def test_many_inputs_are_not_measured_in_all_subsets(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = "abcdefg"
    assert len(list(subsets(names[:6]))) == 2**6 - 1
    assert len(list(subsets(names))) == 7 + 7 + 1
    monkeypatch.setattr("polymodal.evaluate.ablation.MOST_INPUTS", 2)
    predictor: Predictor = load_predictor(run)
    data = ablate(predictor, run.parent / "homes.csv").data
    assert "3 inputs have 7 subsets: measured are the single inputs, all but one, and all" in data["notes"]
