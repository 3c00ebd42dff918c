"""`polymodal export` as people call it."""

from pathlib import Path

import pytest

from polymodal.export import run as export_run
from tests.cli.running import Run


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one word, which are run by the graphs themselves; tests/export has the real ones."""
    monkeypatch.setattr(export_run, "write", lambda graph, file, kind: file.write_text("graph"))
    monkeypatch.setattr(export_run, "runner", lambda kind, file, graph: graph.run)


def test_it_prints_how_near_the_export_is(run: Run, saved: Path, table: Path, tmp_path: Path) -> None:
    done = run("export", saved, "--format", "openvino", "--data", table, "--out", tmp_path / "out")
    assert done.code == 0
    assert f"compared on {table.name} (rows: image 6, text 6), in float32" in done.out
    assert "text.vectors" in done.out
    assert done.out.splitlines()[-1] == str(tmp_path / "out")
    told = run("export", saved, "--out", tmp_path / "out", "--json").json()
    assert (told["backend"], told["parity"]["source"]) == ("onnx", "drawn inputs")


def test_what_cannot_be_done_is_said(run: Run, saved: Path, tmp_path: Path) -> None:
    done = run("export", tmp_path / "nothing", "--out", tmp_path / "out")
    assert (done.code, "does not exist" in done.err) == (1, True)
    done = run("export", saved, "--format", "tflite", "--out", tmp_path / "out")
    assert (done.code, 'got "tflite"' in done.err) == (2, True)
    assert "polymodal export runs/a --out a-onnx --data pairs.csv" in run("export", "--help").out
