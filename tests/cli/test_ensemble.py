"""`polymodal ensemble` as people call it."""

from pathlib import Path

import polymodal as pm
from tests.cli.running import Run
from tests.compress import homes


def members(folder: Path) -> list[Path]:
    return [homes.saved(folder / name, homes.features("price", "color"), seed) for seed, name in enumerate("ab")]


def test_it_writes_an_artifact_and_prints_who_counts_how_much(run: Run, tmp_path: Path) -> None:
    table = homes.table(tmp_path / "rows.csv")
    done = run("ensemble", *members(tmp_path), "--data", table, "--out", tmp_path / "both", "--weights", "0.7，0.3")
    assert done.code == 0
    assert "measured on rows of split test: 10" in done.out
    assert "price 0.700, color 0.700" in done.out
    assert "95 % interval" in done.out
    assert done.out.splitlines()[-1] == str(tmp_path / "both")
    assert pm.load(tmp_path / "both").predict([{"area": 30, "city": "a"}]).predictions[0]["color"].probability > 0


def test_json_has_the_report_alone_on_stdout(run: Run, tmp_path: Path) -> None:
    table = homes.table(tmp_path / "rows.csv", split=False)
    done = run("ensemble", *members(tmp_path), "--data", table, "--out", tmp_path / "both", "--json")
    assert done.code == 0
    assert [member["name"] for member in done.json()["members"]] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert "warning: weights were fitted on the rows that are measured" in done.err


def test_what_cannot_be_done_is_said(run: Run, tmp_path: Path) -> None:
    table, (one, two) = homes.table(tmp_path / "rows.csv"), members(tmp_path)
    done = run("ensemble", one, two, "--data", table, "--out", tmp_path / "both", "--weights", "0.5;0.5")
    assert (done.code, "wanted fit, uniform, or numbers as 0.5,0.3,0.2" in done.err) == (2, True)
    done = run("ensemble", one, "--data", table, "--out", tmp_path / "both")
    assert (done.code, "wanted two models or more, got 1" in done.err) == (2, True)
    other = homes.saved(tmp_path / "other", homes.features("price"))
    done = run("ensemble", one, other, "--data", table, "--out", tmp_path / "both")
    assert (done.code, "combine models of the same targets" in done.err) == (1, True)
    assert not (tmp_path / "both").exists()


def test_help_has_examples(run: Run) -> None:
    assert "polymodal ensemble runs/a runs/b runs/c --data homes.csv --out runs/all" in run("ensemble", "--help").out
