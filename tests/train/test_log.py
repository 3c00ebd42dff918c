"""The log's file, the warning at chance, and what stands on the console."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from polymodal.train.console import Shown
from polymodal.train.log import AtChance, Log, draw_curve, read_log


def trainer(step: int) -> Any:
    return SimpleNamespace(global_step=step, is_global_zero=True, loggers=[])


def training(**shown: float) -> Any:
    config = SimpleNamespace(batch_size=32, lr=0.1, warmup=0.0)
    return SimpleNamespace(shown={name: torch.tensor(value) for name, value in shown.items()}, config=config, lr=0.1)


def test_a_line_that_was_cut_off_by_a_kill_ends_the_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_log(tmp_path / "log") == [{"step": 1}, {"step": 2}]
    assert read_log(tmp_path / "none") == []


def test_lines_of_steps_that_were_undone_are_taken_out(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("".join(f'{{"step": {step}, "loss": 1.5}}\n' for step in range(1, 6)))
    Log(file, every=1, epoch_steps=4).on_train_start(trainer(3), training())
    assert [line["step"] for line in read_log(file)] == [1, 2, 3]


def test_numbers_that_json_does_not_know_become_null(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", every=2, epoch_steps=4)
    for step in (1, 2):
        log.on_train_batch_end(trainer(step), training(loss=math.inf))
    (line,) = (json.loads(text) for text in (tmp_path / "log").read_text().splitlines())
    assert (line["step"], line["epoch"], line["loss"]) == (2, 0.5, None)


def test_a_loss_that_stays_at_chance_is_warned_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    watch = AtChance(batch_size=32, patience=3)
    chance = math.log(32)
    for loss in (chance, chance * 1.01, 1.0, chance, chance):  # the third one breaks the row
        watch.on_train_batch_end(trainer(1), training(info_nce=loss))
    assert capsys.readouterr().err == ""
    for _ in range(5):
        watch.on_train_batch_end(trainer(1), training(info_nce=chance))
    said = capsys.readouterr().err
    assert said.count("warning") == 1
    assert "the loss has stood at ln(batch) = 3.466 for 3 steps" in said
    assert "polymodal preview" in said
    assert "trainer.lr (now 0.1)" in said


def test_it_goes_on_counting_after_a_resume() -> None:
    first, second = AtChance(32, 3), AtChance(32, 3)
    first.on_train_batch_end(trainer(1), training(info_nce=math.log(32)))
    second.load_state_dict(first.state_dict())
    assert second.steps == 1


def test_a_validation_is_one_plain_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown(total_steps=10, metric="R@1")
    module = training(loss=2.5)
    module.measured = {"loss": 2.25, "R@1": 0.125, "R@5": 0.5}
    shown.on_train_start(trainer(0), module)
    shown.on_train_batch_end(trainer(5), module)
    shown.on_validation_end(trainer(5), module)
    shown.on_train_end(trainer(5), module)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("step 5/10  loss 2.500  val loss 2.250  R@1 0.125  R@5 0.500  ")
    assert line.endswith(" left")


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 3.0 / step} for step in range(1, 9)] + [
        {"step": 8, "val/R@1": 0.5, "val/loss": None}
    ]
    (tmp_path / "log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    draw_curve(tmp_path / "log", tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (1080, 420)
