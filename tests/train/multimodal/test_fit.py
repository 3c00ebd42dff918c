"""`fit` of a model with several inputs from end to end: what it leaves, what stays, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from polymodal import artifact
from polymodal.engine import load_engine, load_predictor
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.features import Features, ImageInput
from polymodal.models.multimodal import Multimodal
from polymodal.train import fit, resume, run
from polymodal.train.log import TIMES, read_log
from polymodal.train.multimodal import MultimodalJob
from polymodal.train.recipe import lower_is_better
from polymodal.train.saving import Checkpoints
from tests.train.multimodal import table

pytestmark = pytest.mark.usefixtures("no_curve")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return table.write(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def whole(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(table.recipe(rows), out=tmp_path_factory.mktemp("runs") / "whole").folder


def planned(recipe: Any, *overrides: str) -> MultimodalJob:
    job = run.plan(recipe, overrides=overrides)
    assert isinstance(job, MultimodalJob)
    return job


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return artifact.load(folder / "artifact").model.state_dict()


def test_rows_pictures_are_decoded_fast_unless_exactly_is_asked_for(rows: Path) -> None:
    recipe = table.recipe(rows)
    recipe["model"] = {"kind": "multimodal"}
    for overrides, decoding in (((), "fast"), (("data.decoding=exact",), "exact")):
        config = planned(recipe, *overrides).prepared.features.inputs["image"]
        assert isinstance(config, ImageInput)
        assert config.preprocess.decoding == decoding


def test_a_run_leaves_an_artifact_that_says_all(whole: Path) -> None:
    found = artifact.load(whole / "artifact")
    assert isinstance(found.model, Multimodal)
    assert isinstance(found.preprocess, Features)
    assert {name: target.task for name, target in found.preprocess.targets.items()} == {
        "price": "regression",
        "color": "multiclass",
    }
    validation = found.metrics["validation"]
    assert validation["mean"]["score"] == pytest.approx(
        (validation["price"]["r2"] + validation["color"]["accuracy"]) / 2, abs=1e-6
    )
    log = read_log(whole / "log.jsonl")
    assert {"loss", "price_loss", "color_loss"} <= log[0].keys()
    assert {"val/loss", "val/score", "val/price/r2", "val/color/accuracy"} <= log[-1].keys()


def test_the_log_has_each_objective_of_validations_too(whole: Path) -> None:
    line = read_log(whole / "log.jsonl")[-1]
    assert line["val/price_loss"] + line["val/color_loss"] == pytest.approx(line["val/supervised"], rel=1e-5)


def test_a_metric_that_nothing_measures_is_refused(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'trainer.metric: "price/mea" is not measured; did you mean "price/mae"\?'):
        fit(table.recipe(rows, metric="price/mea", epochs=1), out=tmp_path / "run")


@pytest.mark.parametrize("metric", ["loss", "price/mae", "masked_text", "supervised"])
def test_of_errors_the_lower_is_better(metric: str) -> None:
    assert lower_is_better(metric)


@pytest.mark.parametrize("metric", ["score", "R@5", "color/accuracy", "masked_text_accuracy"])
def test_of_other_metrics_the_higher_is_better(metric: str) -> None:
    assert not lower_is_better(metric)


def test_the_recipe_of_a_run_runs_again_to_the_same_numbers(whole: Path, tmp_path: Path) -> None:
    again = fit(whole / "recipe.yaml", out=tmp_path / "again").folder
    for name, value in weights(whole).items():
        assert torch.equal(weights(again)[name], value), name


def test_resumed_equals_uninterrupted(whole: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Checkpoints.on_train_batch_end

    def pressed(self: Checkpoints, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 3:  # in the middle of an epoch
            self.asked_to_stop = True
        original(self, trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_train_batch_end", pressed)
        with pytest.raises(KeyboardInterrupt, match="--resume"):
            fit(table.recipe(rows), out=tmp_path / "stopped")
    resume(tmp_path / "stopped")
    for name, value in weights(whole).items():
        assert torch.equal(weights(tmp_path / "stopped")[name], value), name
    lines = [[{k: v for k, v in line.items() if k not in TIMES} for line in read_log(folder / "log.jsonl")]
             for folder in (whole, tmp_path / "stopped")]  # fmt: skip
    assert lines[0] == lines[1]


def test_the_artifact_predicts_what_training_measured(whole: Path, rows: Path) -> None:
    predictor = load_predictor(whole)
    predicted = predictor.predict(rows)
    assert len(predicted.predictions) == 48
    color = predicted.predictions[0]["color"]
    assert color.probabilities is not None
    assert color.value == max(color.probabilities, key=lambda name: color.probabilities[name])  # type: ignore[index]
    assert sum(color.probabilities.values()) == pytest.approx(1, abs=1e-5)
    # A row alone gives what it gives in a table, and a plain row what a table's row gives.
    first = {"photo": str(rows.parent / "0.png"), "note": "damp cellar 0", "area": 30.0, "city": "Wien"}
    [alone] = predictor.predict([first]).predictions
    assert alone["price"].value == pytest.approx(predicted.predictions[0]["price"].value, abs=1e-3)
    # What a row lacks is absent, and the answer still a number.
    [bare] = predictor.predict([{"city": "北京"}]).predictions
    assert bare["price"].value == pytest.approx(bare["price"].value)


def test_each_kind_of_model_names_the_verbs_of_the_other(whole: Path) -> None:
    with pytest.raises(ArtifactError, match=r"predicts price, color from image, text, record; use `polymodal predict"):
        load_engine(whole)


def test_what_is_left_out_is_chosen_with_a_reason(rows: Path) -> None:
    job = planned({"model": {"kind": "multimodal"}, "data": {"table": str(rows), "targets": ["price"]}})
    plan = job.plan()
    assert plan["inputs"] == {"image": "image", "text": "text", "record": "record"}
    divided = 'column "split"; 8 rows kept for the report'
    assert plan["rows"] == {"train": 32, "val": 8, "test": 8, "divided_by": divided}
    reasons = {choice["what"]: choice["reason"] for choice in plan["choices"]}
    assert reasons["target price"] == "values are numbers"
    assert "id" in reasons["column id"]
    assert "32 training rows" in reasons["fusion"]
    assert json.loads(json.dumps(plan)) == plan


def test_rows_are_kept_for_the_report_where_no_column_tells(rows: Path) -> None:
    job = planned(table.recipe(rows), "data.split=city", "data.train=[Wien, Graz]", "data.val=[北京]", "data.test=[]")
    assert job.prepared.rows.test is None
    text = rows.read_text(encoding="utf-8").replace(",split", ",other").replace(",train\n", ",a\n")
    other = rows.parent / "unsplit.csv"
    other.write_text(text.replace(",val\n", ",b\n").replace(",test\n", ",c\n"), encoding="utf-8")
    divided = planned(table.recipe(other, batch_size=4)).prepared.rows
    numbers = [set(part.row_numbers.tolist()) for part in (divided.train, divided.val, divided.test) if part]
    assert sorted(map(len, numbers)) == [4, 7, 37]
    assert not numbers[0] & numbers[1] | numbers[0] & numbers[2] | numbers[1] & numbers[2]


def test_a_frozen_encoder_stays_bit_by_bit(rows: Path, tmp_path: Path) -> None:
    recipe = table.recipe(rows, freeze=["encoders.text"])
    before = planned(recipe).prepared.model.state_dict()
    after = weights(fit(recipe, out=tmp_path / "run").folder)
    changed = {name.split(".")[1] for name in after if not torch.equal(after[name], before[name])}
    assert "text" not in changed
    assert {"image", "record"} <= changed


def test_pretrained_then_fine_tuned_with_another_head(rows: Path, tmp_path: Path) -> None:
    recipe = table.recipe(rows)
    recipe["data"] |= {"targets": []}
    del recipe["data"]["inputs"]["record"], recipe["model"]["encoders"]["record"]
    recipe["objectives"] = [{"kind": "masked_text"}, {"kind": "matching", "weight": 0.5}, {"kind": "contrastive"}]
    pretrained = fit(recipe, out=tmp_path / "pretrained").folder
    log = read_log(pretrained / "log.jsonl")[0]
    assert {"masked_text", "matching", "contrastive"} <= log.keys()

    fine: dict[str, Any] = {"model": {"kind": "multimodal", "start": str(pretrained)}}
    fine["data"] = {"table": str(rows), "targets": ["color"]}
    fine["trainer"] = {"epochs": 1, "batch_size": 8, "freeze": ["encoders"]}
    job = planned(fine)
    assert job.plan()["inputs"] == {"image": "image", "text": "text"}
    known, started = weights(pretrained), job.prepared.model.state_dict()
    shared = known.keys() & started.keys()
    assert {name.split(".")[0] for name in shared} == {"encoders", "missing", "fusion"}
    assert all(torch.equal(known[name], started[name]) for name in shared)
    done = weights(fit(fine, out=tmp_path / "fine").folder)
    assert all(torch.equal(done[name], known[name]) for name in shared if name.startswith("encoders."))
    assert done["heads.targets.color.1.weight"].shape == (4, 16)
    with pytest.raises(ArtifactError, match="has no targets, it was only pre-trained; fine-tune it"):
        load_predictor(pretrained).predict(rows)


def test_cells_that_cannot_be_read_are_named_and_count_as_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = table.write(tmp_path, photo={3: "gone.png"}, area={7: "inf"}, price={1: ""})
    folder = fit(table.recipe(rows, epochs=1), out=tmp_path / "run").folder
    said = " ".join(capsys.readouterr().err.split())
    assert "rows have cells that cannot be read and count as empty" in said
    listed = (folder / "left-out.csv").read_text(encoding="utf-8")
    assert "4,photo,missing" in listed
    assert "8,area,not-a-number" in listed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.targets={prise: {}}"], r'no column is named "prise"; did you mean "price"'),
        (["data.targets={city: {}}"], r'column "city" is the target "city" and part of the input "record"'),
        (["data.inputs.text.columns=[nota]"], r'data.inputs.text: no column is named "nota"; did you mean "note"'),
        (["model.encoders.sound={kind: series, channels: 3}"], r'model.encoders: "sound" is not one of image, text'),
        (["model.encoders.text={kind: series, channels: 3}"], r"encoders.text: series reads series, but the table's"),
        (["model.heads={cost: {kind: linear, outputs: 1}}"], r'model.heads: "cost" is not one of price, color'),
        (["trainer.freeze=[encoders.sound]"], r'trainer.freeze: "encoders.sound" names no module'),
        (["trainer.freeze=[encoders, fusion, heads, missing]"], r"trainer.freeze leaves nothing to train"),
        (["trainer.chunk_size=4"], r"chunk_size is for two towers that meet in a loss"),
        (["data.targets={}"], r"nothing to learn: name data.targets"),
        (["objectives=[{kind: masked_text, input: record}]"], r'objective masked_text: "record" is no text input'),
        (["model.init={text: nowhere}"], r"nowhere"),
        (["model.fusion={kind: coattention}"], r"coattention"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(rows: Path, changes: list[str], message: str) -> None:
    with pytest.raises((ConfigError, DataError, ArtifactError), match=message):
        run.plan(table.recipe(rows), overrides=changes)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"color": dict.fromkeys(range(48), "red")}, 'target "color" has one class only'),
        ({"color": dict.fromkeys(range(48), "")}, 'target "color" has no value'),
    ],
)
def test_targets_that_teach_nothing_are_refused(tmp_path: Path, cells: dict[str, Any], message: str) -> None:
    rows = table.write(tmp_path, **cells)
    with pytest.raises(DataError, match=message):
        run.plan(table.recipe(rows, "color"))


@pytest.mark.slow
def test_two_processes_validate_all_rows_together(rows: Path, tmp_path: Path) -> None:
    done = fit(table.recipe(rows, devices=2, accelerator="cpu", epochs=1), out=tmp_path / "run")
    assert done.metrics["validation"]["color"]["rows"] == 8
    predicted = load_predictor(done.folder).predict(rows)
    assert len(predicted.predictions) == 48


@pytest.mark.parametrize("balance", ["uncertainty", "gradnorm"])
def test_a_loss_with_learned_weights_is_not_watched(rows: Path, balance: str) -> None:
    changes = [f"objectives=[{{kind: supervised, balance: {balance}}}]", "trainer.metric=loss"]
    with pytest.raises(ConfigError, match=f'"loss" says nothing under balance "{balance}"'):
        run.plan(table.recipe(rows), overrides=changes)
