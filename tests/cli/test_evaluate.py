"""`polymodal evaluate` as people call it."""

import json
from pathlib import Path

import pytest

from tests.cli.running import Run
from tests.evaluate import small


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return small.table(tmp_path)


def test_it_prints_tables_and_where_the_report_is(run: Run, saved: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("evaluate", saved, pairs, "--split", "test", "--label", "颜色", "--by", "split", "--out", out)
    assert done.code == 0
    assert done.err == "text_to_image: R@10 left out, there are 8 candidates only\n"
    assert "retrieval, image to text (8 queries, 16 candidates)" in done.out
    assert "zero-shot (8 rows, 4 classes)" in done.out
    assert done.out.splitlines()[-1] == str(out / "report.html")
    value = json.loads((out / "report.json").read_text())["tasks"]["knn"]["metrics"]["accuracy"]["value"]
    assert f"{100 * value:.1f} %" in done.out


def test_json_is_what_the_file_holds(run: Run, saved: Path, pairs: Path, tmp_path: Path) -> None:
    words = (
        "--tasks",
        "retrieval",
        "--exclude",
        "color=gray",
        "--exclude",
        "color=red",
        "--candidates",
        "6",
        "--k",
        "1,2",
    )
    done = run("evaluate", saved, pairs, *words, "--out", tmp_path / "out", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json() == json.loads((tmp_path / "out" / "report.json").read_text())
    assert done.json()["settings"]["exclude"] == {"color": ["gray", "red"]}
    assert done.json()["tasks"]["retrieval"]["image_to_text"]["candidates"] == 6


def test_it_says_what_was_not_measured_and_what_was_left_out(
    run: Run, saved: Path, pairs: Path, tmp_path: Path
) -> None:
    (pairs.parent / "3.png").write_bytes(b"")
    done = run("evaluate", saved, pairs, "--out", tmp_path / "out")
    assert done.code == 0
    assert "not measured: knn: " in done.err
    assert "2 rows left out, first: row 7, image: " in done.err
    assert "3.png: is empty" in done.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--split", "tset"), 1, 'no split is named "tset"; did you mean "test"'),
        (("--exclude", "color"), 2, '--exclude "color": wanted COLUMN=VALUE, for instance category=Flags'),
        (("--k", "1,a"), 2, '--k: wanted whole numbers with commas between them, got "1,a"'),
        (("--tasks", "knm"), 2, 'no task is named "knm"; did you mean "knn"'),
        (("--candidates", "0"), 2, "candidates must be 2 or more, got 0"),
    ],
)
def test_what_was_not_asked_properly(
    run: Run, saved: Path, pairs: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    done = run("evaluate", saved, pairs, *words)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


def test_help_has_examples(run: Run) -> None:
    done = run("evaluate", "--help")
    assert done.code == 0
    assert "polymodal evaluate runs/a pairs.csv --split test" in done.out
