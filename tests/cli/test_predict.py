"""`polymodal predict`, `ablate`, and `evaluate` and `fit` of models with targets, as people call them."""

import csv
import json
from pathlib import Path

import pytest

from tests.cli.running import Run
from tests.evaluate import homes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """homes.csv, its pictures, and a run; not to be changed."""
    found = tmp_path_factory.mktemp("homes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYMODAL_CACHE", str(found / "cache"))
        homes.run(found, 100, 1)
    return found


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_a_table_becomes_a_file(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    done = run("predict", "run", "homes.csv", "--out", out, "--probabilities")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"100 rows: {out}\n"
    with out.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [int(line["row"]) for line in lines] == list(range(1, 101))
    assert sum(float(lines[0][f"city={name}"]) for name in ("北京", "上海", "Oslo")) == pytest.approx(1, abs=1e-5)


def test_one_row_by_hand_in_either_form(run: Run) -> None:
    row = json.dumps({"size": 80, "photo": "red-1.png"})
    done = run("predict", "run", "--set", "size=80", "--set", "photo=red-1.png", "--json")
    other = run("predict", "run", "--row", row, "--json", "--probabilities")
    assert done.code == other.code == 0
    (one,), (same,) = done.json()["predictions"], other.json()["predictions"]
    assert one["price"]["value"] == same["price"]["value"]
    assert "probabilities" not in one["city"]
    assert sum(same["city"]["probabilities"].values()) == pytest.approx(1)
    assert 'no column age, 街区: input "record" is read without them' in done.json()["notes"]
    shown = run("predict", "run", "--set", "notes=潮湿的房子", "--probabilities")
    assert "probability" in shown.out
    assert "北京 " in shown.out


def test_the_screen_shows_some_rows_and_says_how_many_more(run: Run) -> None:
    done = run("predict", "run", "homes.csv")
    assert done.code == 0
    assert "50 more rows; `--out predictions.csv` writes all of them" in done.err


def test_cells_that_cannot_be_read_are_named_and_the_code_says_so(run: Run, tmp_path: Path) -> None:
    table = homes.write(tmp_path / "few.csv", [{"photo": "gone.png", "size": "80"}, {"photo": "", "size": "tall"}])
    done = run("predict", "run", table, "--out", tmp_path / "p.jsonl")
    assert done.code == 1
    assert done.out == f"2 rows: {tmp_path / 'p.jsonl'}\n"
    assert "counts as empty: row 1, photo: " in done.err
    assert f"1 cells or rows could not be read, 1 had warnings; all of them: {tmp_path / 'p.jsonl.faults.jsonl'}" in (
        done.err
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "predict: name a table, or one row by --set COLUMN=VALUE or --row JSON"),
        (("homes.csv", "--set", "size=3"), 2, "predict: name a table, or one row by"),
        (("--set", "size"), 2, '--set "size": wanted COLUMN=VALUE, for instance size=80'),
        (("--set", "sise=3"), 2, 'no input reads "sise"; did you mean "size"?; the model reads: photo, notes, size'),
        (("--row", "[1]"), 2, "--row: wanted one object with columns and values, got [1]"),
        (("--row", "{size: 3}"), 2, "--row: wanted JSON such as '{\"size\": 80}', got {size: 3}"),
        (("--set", "size=3", "--split", "val"), 2, "--split and --images-in are for tables"),
        (("homes.csv", "--out", "p.xlsx"), 2, "--out p.xlsx: wanted a name that ends in .csv, .jsonl, .parquet"),
        (("nothing.csv",), 1, "nothing.csv: there is no such file"),
        (("homes.csv", "--split", "val"), 1, 'no column says what is in split "val"'),
    ],
)
def test_what_was_not_asked_properly(run: Run, words: tuple[str, ...], code: int, message: str) -> None:
    done = run("predict", "run", *words)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_evaluate_prints_each_target_and_where_the_report_is(run: Run, tmp_path: Path) -> None:
    done = run("evaluate", "run", "homes.csv", "--by", "街区", "--out", tmp_path / "out")
    assert done.code == 0
    assert done.out.startswith("measured on the rows that were kept apart from training: ")
    assert "price (regression, " in done.out
    assert "without inputs" in done.out
    assert "西城" in done.out
    assert done.out.splitlines()[-1] == str(tmp_path / "out" / "report.html")
    assert run("evaluate", "run", "homes.csv", "--split", "all", "--out", tmp_path / "all").err.startswith("warning: ")


def test_evaluate_refuses_what_is_for_other_models(run: Run) -> None:
    done = run("evaluate", "run", "homes.csv", "--tasks", "knn")
    assert (done.code, done.out) == (2, "")
    assert 'tasks: for models of pictures and texts; "run" predicts price, defect' in done.err


def test_ablate_prints_a_table_a_target(run: Run, tmp_path: Path) -> None:
    done = run("ablate", "run", "homes.csv", "--out", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert "photo: in " in done.out
    assert "city: accuracy" in done.out
    assert (tmp_path / "out" / "ablation-price.png").is_file()
    again = run("ablate", "run", "homes.csv", "--out", tmp_path / "out", "--json")
    assert again.json() == json.loads((tmp_path / "out" / "ablation.json").read_text("utf-8"))
    refused = run("ablate", "run", "homes.csv", "--exclude", "city")
    assert (refused.code, refused.out) == (2, "")


def test_fit_measures_on_the_rows_that_it_kept_apart(run: Run, tmp_path: Path) -> None:
    words = ("--target", "price,city", "trainer.epochs=1", "data.leave=[photo,rooms_with]", "--out", tmp_path / "a")
    done = run("fit", "homes.csv", *words)
    assert done.code == 0
    assert "measured on the rows that were kept apart from training: " in done.out
    assert f"report    {tmp_path / 'a' / 'report.html'}" in done.out
    assert f"polymodal ablate {tmp_path / 'a'} homes.csv" in done.out
    report = json.loads((tmp_path / "a" / "report.json").read_text("utf-8"))
    assert list(report["targets"]) == ["price", "city"]


def test_help_has_examples(run: Run) -> None:
    for verb, example in (("predict", "--out predictions.csv"), ("ablate", "runs/a homes.csv")):
        done = run(verb, "--help")
        assert done.code == 0
        assert example in done.out
