"""`fit` from end to end on drawn pictures: what it leaves, what stays, what it refuses."""

import csv
import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from polymodal import artifact
from polymodal.errors import ArtifactError, ConfigError, DataError, TrainError
from polymodal.models.clip import Clip
from polymodal.preprocess import Preprocess
from polymodal.train import checkpoint, fit, module, resume, run
from polymodal.train.clip_job import ClipJob
from polymodal.train.log import TIMES, read_log
from polymodal.train.prepare import Prepared
from polymodal.train.recipe import Recipe
from polymodal.train.saving import Checkpoints
from tests.train import toy

pytestmark = pytest.mark.usefixtures("no_curve")


def planned(recipe: dict[str, Any]) -> Prepared:
    job = run.plan(recipe)
    assert isinstance(job, ClipJob)
    return job.prepared


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return artifact.load(folder / "artifact").model.state_dict()


def numbers(folder: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    return [
        {name: value for name, value in line.items() if name not in TIMES} for line in read_log(folder / "log.jsonl")
    ]


def last_state(folder: Path) -> dict[str, Any]:
    saved = checkpoint.read_index(folder / "checkpoints").saved
    return checkpoint.load(folder / "checkpoints" / saved[-1])


@pytest.fixture(scope="module")
def whole(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "draw_curve", lambda log, picture: None)
        return fit(toy.recipe(pairs), out=tmp_path_factory.mktemp("runs") / "whole").folder


def test_a_run_leaves_what_its_page_says(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == [
        "artifact",
        "checkpoints",
        "log.jsonl",
        "recipe.yaml",
        "table.json",
        "tokenizer.json",
    ]
    found = artifact.load(whole / "artifact")
    assert set(found.metrics["validation"]) == {"mean", "image_to_text", "text_to_image"}
    assert found.tokenizer is not None
    assert found.config.to_dict()["text"]["vocab_size"] == found.tokenizer.vocab_size


def test_the_log_has_a_line_a_step_and_a_line_a_validation(whole: Path) -> None:
    lines = read_log(whole / "log.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [line["step"] for line in lines if "val/R@1" in line] == [4, 8]
    assert all(line["samples_per_s"] > 0 and line["grad_norm"] > 0 for line in lines if "loss" in line)
    assert lines[-1]["epoch"] == 2


def test_the_artifact_is_the_best_average(whole: Path) -> None:
    index = checkpoint.read_index(whole / "checkpoints")
    values = {f"step-{line['step']:08}": line["val/R@1"] for line in read_log(whole / "log.jsonl") if "val/R@1" in line}
    assert index.best is not None
    assert index.best_value == max(values.values()) == values[index.best]
    callbacks = checkpoint.load(whole / "checkpoints" / index.best)["callbacks"]
    average = next(state["average"] for state in callbacks.values() if "average" in state)
    found = weights(whole)
    assert all(torch.equal(found[name.removeprefix("model.")], value) for name, value in average.items())
    raw = checkpoint.load(whole / "checkpoints" / index.best)["state_dict"]
    assert not torch.equal(raw["model.image_projection.weight"], found["image_projection.weight"])


def test_the_recipe_of_a_run_runs_again_to_the_same_numbers(whole: Path, tmp_path: Path) -> None:
    again = fit(whole / "recipe.yaml", out=tmp_path / "again").folder
    assert Recipe.read(again / "recipe.yaml") == Recipe.read(whole / "recipe.yaml")
    assert numbers(again) == numbers(whole)


def test_a_run_leaves_the_process_as_it_was(pairs: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.randn(3)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    torch.manual_seed(3)
    fit(toy.recipe(pairs, steps=1), out=tmp_path / "run")
    assert torch.equal(torch.randn(3), expected)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


# ---------------------------------------------------------------------------------------------------------------------
# Stopping and going on


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Ctrl-C were pressed during a step."""
    original = Checkpoints.on_train_batch_end

    def pressed(self: Any, trainer: Any, *args: Any) -> None:
        self.asked_to_stop |= trainer.global_step == step
        original(self, trainer, *args)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", pressed)


@pytest.mark.parametrize("step", [3, 4, 6])  # within the first epoch, at its end, within the second
def test_resumed_equals_uninterrupted_number_for_number(
    whole: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patch:
        stop_at(step, patch)
        with pytest.raises(KeyboardInterrupt, match=f"step-0000000{step} is whole. Go on with: .*fit --resume"):
            fit(toy.recipe(pairs), out=tmp_path / "run")
    with (tmp_path / "run/log.jsonl").open("a") as stream:
        stream.write('{"step": 7, "epoch": 1.75, "loss": 99.0}\n{"step": 8, "ep')  # of steps that a kill made undone
    resume(tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(whole)
    resumed, uninterrupted = weights(tmp_path / "run"), weights(whole)
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)
    mine, theirs = last_state(tmp_path / "run")["optimizer_states"], last_state(whole)["optimizer_states"]
    assert torch.equal(mine[0]["state"][0]["exp_avg"], theirs[0]["state"][0]["exp_avg"])


def test_a_full_disk_stops_the_run_and_the_checkpoint_before_goes_on(
    whole: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        original, calls = save_file, []

        def full(*args: Any, **options: Any) -> None:
            calls.append(1)
            if len(calls) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(*args, **options)

        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(TrainError, match=r"step-00000006: .*No space left on device.*--resume"):
            fit(toy.recipe(pairs, save_every=2), out=tmp_path / "run")
    resume(tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(whole)


def test_it_does_not_go_on_with_another_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = toy.table(tmp_path / "data", count=24)
    with monkeypatch.context() as patch:
        stop_at(1, patch)
        with pytest.raises(KeyboardInterrupt):
            fit(toy.recipe(table), out=tmp_path / "run")
    toy.table(tmp_path / "data", count=30)
    with pytest.raises(DataError, match=r"pairs\.csv: the table has changed since the run began .*begin a new run"):
        resume(tmp_path / "run")


def test_a_run_that_ended_can_be_made_longer(pairs: Path, tmp_path: Path) -> None:
    folder = fit(toy.recipe(pairs, epochs=1), out=tmp_path / "run").folder
    with pytest.raises(ConfigError, match="the run stands at step 4 and would end at 3: ask for more steps"):
        resume(folder, ["trainer.steps=3"])
    with pytest.raises(ConfigError, match=r'"trainer\.batch_size" cannot be changed in the middle of a run'):
        resume(folder, ["trainer.batch_size=4"])
    assert resume(folder, ["trainer.epochs=2"]).steps == 8
    assert [line["step"] for line in numbers(folder) if "loss" in line] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert all(line["lr"] > 0 for line in numbers(folder) if "loss" in line)  # the first schedule had come to 0
    assert Recipe.read(folder / "recipe.yaml").trainer.epochs == 2


def test_what_cannot_be_resumed_is_said(tmp_path: Path, pairs: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is no run: it has no recipe\.yaml"):
        resume(tmp_path)
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(ArtifactError, match="stopped before its first checkpoint; begin again"):
        resume(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# The trainer's settings


def test_chunks_give_the_weights_of_the_whole_batch(pairs: Path, tmp_path: Path) -> None:
    recipe = toy.recipe(pairs, epochs=1, ema=None)
    for tower in ("image", "text"):
        recipe["model"][tower]["dropout"] = 0.0  # a mask is drawn for a chunk, not for a batch
    plain = last_state(fit(recipe, out=tmp_path / "plain").folder)["state_dict"]
    chunked = last_state(fit(recipe, out=tmp_path / "chunked", overrides=["trainer.chunk_size=3"]).folder)["state_dict"]
    slim = ["trainer.gradient_checkpointing=true"]
    recomputed = last_state(fit(recipe, out=tmp_path / "slim", overrides=slim).folder)["state_dict"]
    for name, value in plain.items():
        torch.testing.assert_close(chunked[name], value, rtol=1e-4, atol=2e-5, msg=name)
        torch.testing.assert_close(recomputed[name], value, rtol=1e-4, atol=2e-5, msg=name)


def test_a_locked_tower_is_the_same_bits_and_need_not_run(pairs: Path, tmp_path: Path) -> None:
    recipe = toy.recipe(pairs, freeze=["image_encoder"], weight_decay=0.5)
    recipe["model"]["image"] = {"kind": "resnet", "image_size": 16, "block": "basic", "layers": [1, 1, 1, 1], "stem": 4}
    built = planned(recipe).built.model.state_dict()
    known = weights(fit(recipe, out=tmp_path / "known").folder)
    run_every_time = weights(fit(recipe, out=tmp_path / "run", overrides=["trainer.cache_locked=false"]).folder)
    locked = [name for name in built if name.startswith("image_encoder.")]
    assert any("running_mean" in name for name in locked)
    for name in locked:
        assert torch.equal(known[name], built[name]), name
        assert torch.equal(run_every_time[name], built[name]), name
    for name in built.keys() - set(locked):
        torch.testing.assert_close(known[name], run_every_time[name], rtol=1e-4, atol=2e-5, msg=name)
        assert not torch.equal(known[name], built[name]) or built[name].numel() == 0, name


def test_lora_leaves_a_plain_artifact_whose_other_weights_are_untouched(pairs: Path, tmp_path: Path) -> None:
    recipe = toy.recipe(pairs, lora={"rank": 2, "alpha": 4})
    built = planned(recipe).built.model.state_dict()
    found = weights(fit(recipe, out=tmp_path / "run").folder)
    plain = {name for name in built if "lora" not in name}
    assert found.keys() == plain
    moved = {name for name in plain if not torch.equal(found[name], built[name])}
    assert {name for name in moved if "_encoder." in name} == {
        f"{tower}_encoder.blocks.0.attention.{layer}.weight" for tower in ("image", "text") for layer in ("qkv", "out")
    }


def test_new_models_decode_fast_and_others_as_before_unless_asked(whole: Path, pairs: Path, tmp_path: Path) -> None:
    new, asked = toy.recipe(pairs), toy.recipe(pairs)
    asked["data"]["decoding"] = "exact"
    old = artifact.load(whole / "artifact")
    assert isinstance(old.preprocess, Preprocess)
    about: Any = {"model": old.model, "tokenizer": old.tokenizer}
    artifact.save(tmp_path / "old", preprocess=old.preprocess.with_decoding("exact"), **about)
    continued = new | {
        "model": {"kind": "pretrained", "source": str(tmp_path / "old")}, "tokenizer": {"kind": "pretrained"}
    }  # fmt: skip
    found = [planned(recipe).built.preprocess.image.decoding for recipe in (new, asked, continued)]
    assert found == ["fast", "exact", "exact"]


def test_it_goes_on_from_an_artifact_with_its_tokenizer_and_preprocessing(
    whole: Path, pairs: Path, tmp_path: Path
) -> None:
    recipe = toy.recipe(pairs, steps=1, lr=1e-9, ema=None)
    recipe |= {"model": {"kind": "pretrained", "source": str(whole)}, "tokenizer": {"kind": "pretrained"}}
    tuned = artifact.load(fit(recipe, out=tmp_path / "run").folder / "artifact")
    before = artifact.load(whole / "artifact")
    assert (tuned.config, tuned.preprocess) == (before.config, before.preprocess)
    for name, value in before.model.state_dict().items():
        torch.testing.assert_close(tuned.model.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)
    recipe["tokenizer"] = {"kind": "learned", "vocab_size": 512}
    with pytest.raises(ConfigError, match=r"tokenizer: a learned one gives its ids to other words.*kind=pretrained"):
        run.plan(recipe)


def test_single_towers_start_from_trained_weights(whole: Path, pairs: Path) -> None:
    recipe = toy.recipe(pairs)
    recipe["model"]["init"] = {"image": str(whole)}
    built = planned(recipe).built.model
    given = artifact.load(whole / "artifact").model
    assert isinstance(given, Clip)
    for name, value in given.image_encoder.state_dict().items():
        assert torch.equal(built.image_encoder.state_dict()[name], value), name
    assert not torch.equal(built.image_projection.weight, given.image_projection.weight)  # type: ignore[arg-type]


def test_steps_end_a_run_within_an_epoch_and_it_is_validated(pairs: Path, tmp_path: Path) -> None:
    done = fit(toy.recipe(pairs, steps=5, val_every=3), out=tmp_path / "run")
    assert done.steps == 5
    lines = read_log(done.folder / "log.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in lines if "val/loss" in line] == [3, 5]


def test_early_stopping_counts_validations_without_a_better_value(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy.recipe(pairs, epochs=9, early_stopping={"patience": 2}, metric="loss", lr=1e-12, ema=None)
    values = iter([5.0, 4.0, 4.5, 4.25, 1.0])
    monkeypatch.setattr(module.ClipTraining, "_validation_loss", lambda *args: next(values))
    done = fit(recipe, out=tmp_path / "run")
    assert done.steps == 4 * 4
    assert checkpoint.read_index(done.folder / "checkpoints").best_value == 4.0
    assert done.metrics["step"] == 8


def test_the_scale_is_held_at_its_ceiling(pairs: Path, tmp_path: Path) -> None:
    recipe = toy.recipe(pairs, steps=3)
    recipe["model"] |= {"temperature": 0.05, "max_scale": 10}
    scales = [line["scale"] for line in numbers(fit(recipe, out=tmp_path / "run").folder) if "scale" in line]
    assert scales[0] == pytest.approx(20)
    assert max(scales[1:]) <= 10.0001


def test_objectives_add_up_with_their_weights(pairs: Path, tmp_path: Path) -> None:
    recipe = toy.recipe(pairs, steps=2)
    recipe["objectives"] = [{"kind": "siglip", "weight": 0.5}, {"kind": "hard_negative", "weight": 2.0}]
    with pytest.raises(ConfigError, match=r"siglip: the model has no bias.*model\.bias=-10"):
        fit(recipe)
    done = fit(recipe, out=tmp_path / "run", overrides=["model.bias=-10", "model.temperature=0.1"])
    for line in numbers(done.folder):
        if "loss" in line:
            assert line["loss"] == pytest.approx(0.5 * line["siglip"] + 2 * line["hard_negative"], rel=1e-5)


def test_it_reports_to_tensorboard_too(pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

    done = fit(toy.recipe(pairs, steps=2, report_to=["tensorboard"]), out=tmp_path / "run")
    events = event_accumulator.EventAccumulator(str(done.folder / "tensorboard"))
    events.Reload()
    shown = [event.value for event in events.Scalars("loss")]
    assert shown == pytest.approx([line["loss"] for line in numbers(done.folder) if "loss" in line], rel=1e-6)


def test_a_tracker_that_is_not_installed_names_its_extra(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytorch_lightning import loggers

    def absent(**options: Any) -> None:
        raise ModuleNotFoundError("wandb")

    monkeypatch.setattr(loggers, "WandbLogger", absent)
    with pytest.raises(ConfigError, match=r'wandb is not installed; `pip install "polymodal\[wandb\]"`'):
        fit(toy.recipe(pairs, report_to=["wandb"]), out=tmp_path / "run")


@pytest.mark.slow
def test_two_processes_learn_what_one_does(pairs: Path, tmp_path: Path) -> None:
    recipe = toy.recipe(pairs, epochs=1, accelerator="cpu")
    for tower in ("image", "text"):
        recipe["model"][tower]["dropout"] = 0.0  # every process draws its own
    one = fit(recipe, out=tmp_path / "one").folder
    two = fit(recipe, out=tmp_path / "two", overrides=["trainer.devices=2"]).folder
    for mine, theirs in zip(numbers(one), numbers(two), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    single, double = last_state(one)["state_dict"], last_state(two)["state_dict"]
    for name, value in single.items():
        torch.testing.assert_close(double[name], value, rtol=1e-4, atol=2e-5, msg=name)


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


def test_rows_that_cannot_be_used_are_counted_named_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = toy.table(tmp_path / "data", count=24, broken=(3, 11))
    done = fit(toy.recipe(table, epochs=1), out=tmp_path / "run")
    assert done.plan["rows"]["left_out"] == 2
    assert done.plan["rows"]["train"] + done.plan["rows"]["val"] == 22
    said = capsys.readouterr().err
    assert "warning: 2 rows are left out, first: row 4, image: " in said
    assert "left-out.csv" in said
    with (done.folder / "left-out.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["row"] for row in rows] == ["4", "12"]
    assert all(row["column"] == "image" and row["reason"] and row["remedy"] for row in rows)


def test_a_loss_that_is_not_finite_names_step_and_rows(pairs: Path, tmp_path: Path) -> None:
    recipe = toy.recipe(pairs, lr=1e30, clip_norm=None, ema=None, warmup=0)
    with pytest.raises(TrainError, match=r"step 1: the loss is (nan|inf), the weights .*finite") as refusal:
        fit(recipe, out=tmp_path / "run")
    assert "rows of this step: " in str(refusal.value)
    assert "Lower trainer.lr (now 1e+30)" in str(refusal.value)


def test_out_of_memory_says_which_settings_to_change(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def huge(*args: Any) -> None:
        torch.empty(2**55)

    monkeypatch.setattr(module.ClipTraining, "training_step", huge)
    with pytest.raises(TrainError) as refusal:
        fit(toy.recipe(pairs), out=tmp_path / "run")
    for way in ("trainer.chunk_size=2 (now 8)", "gradient_checkpointing=true", "trainer.batch_size=4 (now 8)"):
        assert way in str(refusal.value)


def test_a_batch_larger_than_the_table_is_made_smaller_and_said(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = fit(toy.recipe(pairs, batch_size=256, epochs=1), out=tmp_path / "run")
    assert done.plan["batch_size"] == 32
    assert "trainer.batch_size is 32 in place of 256: there are 32 training rows" in capsys.readouterr().err


def test_a_folder_that_holds_something_is_not_written_to(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match=r"is not empty: choose another --out, or go on with `--resume"):
        fit(toy.recipe(pairs), out=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("trainer.freeze=[image_encodr]", r'trainer\.freeze: "image_encodr" names no module.*"image_encoder"'),
        ("trainer.freeze=[image_encoder,text_encoder,image_projection,text_projection,log_scale]", "nothing to train"),
        ("trainer.lora={targets: [nowhere]}", r'lora\.targets: "nowhere" fits no linear layer'),
        ("tokenizer={kind: pretrained}", r"tokenizer: the model's source has none; set tokenizer\.source"),
        ("preprocess={text: {max_length: 99}}", r"preprocess\.text\.max_length must be at most .* 16, got 99"),
        ("model={kind: pretrained, source: nowhere/at-all}", "nowhere/at-all: no such file or folder"),
        ("data.table=nowhere.csv", "nowhere.csv"),
        ("data.table=null", r"data\.table is missing"),
    ],
)
def test_settings_that_do_not_fit_are_refused(pairs: Path, change: str, message: str) -> None:
    with pytest.raises((ConfigError, ArtifactError, DataError), match=message):
        run.plan(toy.recipe(pairs), overrides=[change])
