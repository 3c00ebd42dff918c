"""`polymodal profile` as a person runs it."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from polymodal.cli.app import app
from polymodal.errors import ConfigError
from polymodal.train import profile as profiles
from tests.train import toy


@pytest.fixture(autouse=True)
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe file beside its table; commands run in its folder."""
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(profiles, "LIMIT_SIDE", 64)
    monkeypatch.setattr(profiles, "LIMIT_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    toy.table(tmp_path / "data", count=30)
    Path("toy.yaml").write_text(yaml.safe_dump(toy.recipe(Path("data/pairs.csv"))), encoding="utf-8")


def test_it_shows_the_parts_of_a_step_with_bars() -> None:
    done = CliRunner().invoke(app, ["profile", "toy.yaml", "--steps", "3"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "3 steps of 8 samples" in done.stdout
    for part, what in (("data", "waiting for a batch"), ("backward", "gradients"), ("lightning", "the loop's own")):
        [line] = [line for line in done.stdout.splitlines() if part in line and what in line]
        assert "%" in line
    assert "█" in done.stdout
    assert "image_encoder" in done.stdout
    assert "GFLOP a step" in done.stdout
    assert "MiB at most" in done.stdout
    assert not Path("runs").exists()


def test_json_is_the_only_thing_on_stdout() -> None:
    words = ["profile", "--config", "toy.yaml", "trainer.batch_size=4", "--steps", "2", "--json"]
    found = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    assert (found["steps"], found["batch_size"]) == (2, 4)
    assert sum(part["share"] for part in found["parts"].values()) == pytest.approx(1)
    assert found["parameters"]["image_projection"] == {"total": 128, "trained": 128}


def test_targets_are_named_as_for_fit() -> None:
    words = ["profile", "data/pairs.csv", "--target", "caption", "--steps", "1", "--json", "trainer.precision=fp32"]
    words.append("data.targets.caption.task=multiclass")
    found = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    assert found["plan"]["targets"] == {"caption": "multiclass"}
    assert "encoders.image" in found["parameters"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"profile: wanted one recipe or one table \(`polymodal profile pairs\.csv`\).*got none"),
        (["toy.yaml", "b.yaml"], r"profile: wanted one recipe .*got toy\.yaml, b\.yaml"),
        (
            ["clip", "--table", "data/pairs.csv", "--target", "x"],
            r"profile --target: wanted a table, or a recipe's file",
        ),
        (["toy.yaml", "trainer.bath_size=4"], r'unknown key "trainer\.bath_size"; did you mean "batch_size"\?'),
    ],
)
def test_what_is_asked_wrongly_is_said(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, ["profile", *words], catch_exceptions=False)
