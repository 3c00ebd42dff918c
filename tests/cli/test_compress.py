from pathlib import Path

import pytest

from polymodal import artifact
from polymodal.compress import chain as chain_module
from polymodal.compress.cost import Cost
from tests.cli.running import Run
from tests.evaluate import small


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module, "cost", lambda folder, batch: Cost(10_000, 2_000_000, 30_000, 0.0123, 321.0))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return small.table(tmp_path)


def test_it_prints_a_table_and_leaves_an_artifact(run: Run, saved: Path, pairs: Path, tmp_path: Path) -> None:
    done = run("compress", saved, "--steps", "bf16,int8", "--data", pairs, "--out", tmp_path / "small")
    assert done.code == 0, done.err
    for word in ("before", "int8", "bf16", "R@1", "95 % interval", "12.3 ms", "321", "2 MB", "compression.html"):
        assert word in done.out
    assert "step 2 of 2: int8" in done.err
    assert artifact.load(tmp_path / "small").model.forms.changes


def test_json_is_what_the_file_holds(run: Run, saved: Path, pairs: Path, tmp_path: Path) -> None:
    import json

    done = run("compress", saved, "--steps", "bf16", "--data", pairs, "--out", tmp_path / "small", "--json")
    assert done.json() == json.loads((tmp_path / "small" / "compression.json").read_text("utf-8"))


def test_refusals_have_their_codes(run: Run, saved: Path, pairs: Path, tmp_path: Path) -> None:
    rest = ("--data", pairs, "--out", tmp_path / "small")
    wrong = run("compress", saved, "--steps", "int9", *rest)
    assert wrong.code == 2
    assert 'no step is named "int9"; did you mean "int8"?' in wrong.err
    assert run("compress", saved, "--steps", "int8", *rest, "--max-loss", "5").code == 2
    run("compress", saved, "--steps", "int8", *rest)
    again = run("compress", tmp_path / "small", "--steps", "int8", "--data", pairs, "--out", tmp_path / "smaller")
    assert again.code == 1
    assert "is quantized already" in again.err


def test_help_has_examples(run: Run) -> None:
    done = run("compress", "--help")
    assert done.code == 0
    assert "prune:ffn=0.3,distill:epochs=2,int8" in done.out
