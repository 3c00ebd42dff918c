"""`polymodal soup` as people call it."""

from pathlib import Path

from tests.cli.running import Run
from tests.compress import homes


def test_it_prints_who_is_in_the_soup_and_writes_it(run: Run, tmp_path: Path) -> None:
    given = homes.features("price")
    sources = [homes.saved(tmp_path / name, given, seed) for seed, name in enumerate("ab")]
    table = homes.table(tmp_path / "rows.csv")
    done = run("soup", *sources, "--data", table, "--out", tmp_path / "soup")
    assert done.code == 0
    assert "r2 of 20 validation rows" in done.out
    assert done.out.splitlines()[-1] == str(tmp_path / "soup")
    assert "hardly share a start" in done.err
    told = run("soup", *sources, "--data", table, "--out", tmp_path / "soup", "--how", "uniform", "--json").json()
    assert [one["in"] for one in told["ingredients"]] == [True, True]


def test_what_cannot_be_averaged_is_said(run: Run, tmp_path: Path) -> None:
    one, two = homes.saved(tmp_path / "a", homes.features("price")), homes.saved(tmp_path / "b")
    done = run("soup", one, two, "--data", homes.table(tmp_path / "rows.csv"), "--out", tmp_path / "soup")
    assert (done.code, "of different architectures" in done.err) == (1, True)
    assert "polymodal soup runs/a runs/b runs/c" in run("soup", "--help").out
