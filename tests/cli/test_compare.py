import json
from pathlib import Path

import pytest

from polymodal.train import run as runs
from tests.cli.running import Run
from tests.train.multimodal import tables

TINY = [
    *tables.TWO_RECORDS,
    *(f"model.encoders.{name}={{kind: record_mlp, numbers: 1, width: 8, layers: 1}}" for name in ("left", "right")),
]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "draw_curve", lambda log, picture: None)
    monkeypatch.chdir(tmp_path)
    tables.xor(tmp_path / "xor.csv", 80)


def test_one_table_with_intervals_differences_and_costs(run: Run) -> None:
    words = ["--fusion", "late,spatial", "--steps", "2", "--out", "out", *TINY]
    done = run("compare", "xor.csv", "--target", "y", *words)
    assert done.code == 0, done.err
    heads = [cell.strip() for cell in done.out.splitlines()[1].strip("┃").split("┃")]
    assert heads == ["model", "y auroc", "95 %", "to best single input", "parameters", "steps", "seconds", "samples/s"]
    for name in ("late", "left alone", "right alone", "no input", "spatial"):
        assert f"│ {name} " in done.out
    assert "not possible" in done.out
    assert "page  out/compare.html" in done.out
    assert "best  " in done.out
    assert 'spatial: not possible: fusion "spatial" lays pictures on one grid; no picture: left, right' in done.err
    again = run("compare", "xor.csv", "--target", "y", *words, "--json")  # nothing is left to train
    found = json.loads(again.out)
    assert found == json.loads(Path("out/compare.json").read_text("utf-8"))
    assert {one["name"] for one in found["models"] if one["status"] == "done"} == {
        "late", "left alone", "right alone", "no input",
    }  # fmt: skip


def test_a_dry_run_says_what_and_how_long_and_leaves_nothing(run: Run) -> None:
    done = run("compare", "xor.csv", "--target", "y", "--fusion", "late,spatial", "--epochs", "3", "--dry-run", *TINY)
    assert done.code == 0, done.err
    assert "61 rows to train, 12 held-out rows (test) to measure on" in done.out
    assert "of training in all, 3 epochs each" in done.out
    assert 'not possible: fusion "spatial"' in done.out
    assert [path.name for path in Path().iterdir() if path.is_dir()] == []


def test_rows_for_validation_must_do_where_there_are_none_for_the_test(run: Run) -> None:
    done = run(
        "compare", "xor.csv", "--target", "y", "--fusion", "late", "--steps", "1", "--out", "out",
        "data.test_fraction=0", *TINY,
    )  # fmt: skip
    assert done.code == 0
    assert "measured on the validation rows, which also chose each run's best step" in done.err
    assert "somewhat too high" in Path("out/compare.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["xor.csv", "b.csv", "--target", "y"],
            "compare: wanted one table; changes are written key=value, got xor.csv, b",
        ),
        (["xor.csv", "--target", "y", "--budget", "soon"], 'wanted a time such as 60s, 5m or 1h, got "soon"'),
        (["xor.csv", "--target", "y", "--budget", "0s"], 'wanted a time such as 60s, 5m or 1h, got "0s"'),
        (
            ["xor.csv", "--target", "y", "--budget", "1m", "--steps", "2"],
            "one of seconds, steps and epochs, got 60 s, 2",
        ),
        (["xor.csv", "--target", "y", "--fusion", "laet"], 'no fusion is named "laet"; did you mean "late"?'),
        (["xor.csv", "--target", "y", "--lang", "fr"], '--lang: wanted en or zh, got "fr"'),
    ],
)
def test_what_is_asked_wrongly_is_said(run: Run, words: list[str], message: str) -> None:
    done = run("compare", *words)
    assert done.code == 2
    assert message in done.err
    assert done.out == ""


def test_the_help_names_the_fusions_and_has_examples(run: Run) -> None:
    done = run("compare", "--help")
    assert done.out.count("polymodal compare ") >= 4
    for name in ("late", "coattention", "--budget", "--dry-run", "--json"):
        assert name in done.out


def test_it_is_a_function_too() -> None:
    import polymodal
    from polymodal.evaluate.comparison import compare

    assert polymodal.compare is compare
