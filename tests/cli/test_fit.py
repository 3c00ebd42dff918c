"""`polymodal fit` as a person runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from polymodal.cli.app import app
from polymodal.errors import ConfigError
from polymodal.train import run
from polymodal.train.checkpoint import read_index
from polymodal.train.log import read_log
from tests.train import toy


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe file beside its table; commands run in its folder."""
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(run, "draw_curve", lambda log, picture: None)
    monkeypatch.chdir(tmp_path)
    toy.table(tmp_path / "data", count=30)
    data = toy.recipe(Path("data/pairs.csv"), epochs=1)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    return tmp_path / "toy.yaml"


def test_it_shows_the_plan_trains_and_says_what_comes_next(recipe: Path) -> None:
    done = CliRunner().invoke(app, ["fit", "toy.yaml", "trainer.steps=2", "--out", "runs/a"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "24 to train, 6 to validate (20% held out by picture)" in done.stderr
    assert "2 of 8 pairs (0.67 epochs)" in done.stderr
    assert "image to text" in done.stdout
    assert "polymodal evaluate runs/a data/pairs.csv" in done.stdout
    assert Path("runs/a/artifact/model.safetensors").is_file()


def test_a_dry_run_leaves_nothing(recipe: Path) -> None:
    done = CliRunner().invoke(app, ["fit", "--config", "toy.yaml", "--dry-run", "--json"], catch_exceptions=False)
    plan = json.loads(done.stdout)
    assert plan["rows"] == {"train": 24, "val": 6, "left_out": 0, "divided_by": "20% held out by picture"}
    assert plan["parameters"]["trained"] > 0
    assert plan["steps"] == 3
    assert not Path("runs").exists()


def test_json_is_the_only_thing_on_stdout_and_runs_are_numbered(recipe: Path) -> None:
    for number in (1, 2):
        done = CliRunner().invoke(app, ["fit", "toy.yaml", "trainer.steps=1", "--json"], catch_exceptions=False)
        assert json.loads(done.stdout)["run"] == f"runs/toy-{number}"


def test_a_table_alone_means_clip_tiny(recipe: Path) -> None:
    done = CliRunner().invoke(app, ["fit", "data/pairs.csv", "--dry-run", "--json"], catch_exceptions=False)
    plan = json.loads(done.stdout)
    assert (plan["recipe"], plan["table"]) == ("clip-tiny", "data/pairs.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.yaml", "b.yaml"], r"wanted one recipe or one table .*got a\.yaml, b\.yaml"),
        (["--table", "data/pairs.csv"], "got none"),
        (["toy.yaml", "--resume", "runs/a"], r"--resume runs/a goes on with that run's own recipe"),
        (["toy.yaml", "trainer.bath_size=4"], r'unknown key "trainer\.bath_size"; did you mean "batch_size"\?'),
    ],
)
def test_what_is_asked_wrongly_is_said(recipe: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, ["fit", *words], catch_exceptions=False)


def start(recipe: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "polymodal", "fit", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=recipe.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_step(folder: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Until the log has this step; the process's own end is the limit."""
    while process.poll() is None:
        lines = read_log(folder / "log.jsonl")
        if lines and lines[-1]["step"] >= step:
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate())


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on_and_a_kill_loses_nothing_saved(recipe: Path) -> None:
    words = ["toy.yaml", "trainer.steps=2000", "trainer.save_every=5", "trainer.schedule=constant"]
    folder = recipe.parent / "run"
    process = start(recipe, *words, "--out", "run")
    wait_for_step(folder, 20, process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "is whole. Go on with: polymodal fit --resume run" in said

    process = start(recipe, "--resume", "run")
    wait_for_step(folder, read_log(folder / "log.jsonl")[-1]["step"] + 20, process)
    process.kill()
    process.communicate()
    stands = int(read_index(folder / "checkpoints").saved[-1].rpartition("-")[2])
    done = start(recipe, "--resume", "run", f"trainer.steps={stands + 2}")
    out, said = done.communicate()
    assert done.returncode == 0, said
    assert "artifact" in out
    steps = [line["step"] for line in read_log(folder / "log.jsonl") if "loss" in line]
    assert steps == list(range(1, stands + 3))  # without a seam
