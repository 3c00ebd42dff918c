"""What dropping inputs in training is good for, on a written table and by the way that everybody goes."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from polymodal.engine import Predictor, load_predictor
from polymodal.train import run
from tests.train.multimodal import tables

STEPS = 150
FUSIONS = {
    "concat": "{kind: late, weights: concat, width: 64}",
    "early": "{kind: early, width: 64, layers: 2, heads: 2, pool: mean}",
}


def trained(folder: Path, fusion: str, input_dropout: float) -> Predictor:
    recipe = {"model": {"kind": "multimodal"}, "data": {"targets": ["y"], "test_fraction": 0.0}}
    settings = [
        f"model.fusion={FUSIONS[fusion]}",
        f"model.input_dropout={input_dropout}",
        f"trainer.steps={STEPS}",
        f"trainer.val_every={STEPS}",
    ]
    table = tables.redundant(folder / "train.csv", rows=1000)
    done = run.fit(recipe, table, out=folder / f"run-{input_dropout}", overrides=[*tables.EASY_AND_HARD, *settings])
    return load_predictor(done.folder)


def accuracy(model: Predictor, table: Path, only: Sequence[str] | None = None) -> float:
    rows = model.rows(table, with_targets=True)
    labels = rows.batch(range(len(rows)), only=()).targets["y"]
    yes = model.outputs(rows, only=only)["y"][:, 0] > 0
    return (yes == (labels == 1)).double().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_model_trained_with_dropped_inputs_bears_the_loss_of_one_and_another_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fusion: str
) -> None:
    """Both inputs give the answer alone. A plain model leans on the easy one; once that is gone it has little left."""
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "draw_curve", lambda log, picture: None)
    test = tables.redundant(tmp_path / "test.csv", rows=400, seed=1)
    lost = {}
    for input_dropout in (0.0, 0.4):
        model = trained(tmp_path, fusion, input_dropout)
        whole = accuracy(model, test)
        assert whole >= 0.98
        lost[input_dropout] = {kept: whole - accuracy(model, test, [kept]) for kept in ("easy", "hard")}
    assert lost[0.0]["hard"] >= 0.2
    assert max(lost[0.4].values()) <= 0.05
