"""`polymodal models`: its two streams and its exit code."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from polymodal.cli import main
from polymodal.models import published
from polymodal.models.clip import ClipConfig
from polymodal.models.names import ENCODERS, JOINT, MODELS
from tests import tiny


class Done(NamedTuple):
    code: int
    out: str
    err: str


Polymodal = Callable[..., Done]


@pytest.fixture
def polymodal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Polymodal:
    """`polymodal models ...` without the seconds of a new process."""

    def called(*arguments: object) -> Done:
        monkeypatch.setattr("sys.argv", ["polymodal", "models", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Done(int(ended.value.code or 0), *capsys.readouterr())

    return called


def test_the_table_cuts_no_name() -> None:
    command = [sys.executable, "-m", "polymodal", "models"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (*MODELS, *JOINT))
    assert "151.3 M" in done.stdout
    assert "recipes for `polymodal fit`: clip, " in done.stdout


def test_it_lists_every_name_with_its_size(polymodal: Polymodal) -> None:
    done = polymodal("--json")
    assert done.code == 0, done.err
    assert "clip-tiny" in json.loads(done.out)["recipes"]
    rows = {row["name"]: row for row in json.loads(done.out)["models"]}
    assert rows.keys() == MODELS.keys() | JOINT.keys() | ENCODERS.keys()
    assert rows["clip-vit-b32"]["parameters"] == 151_277_313


def test_it_shows_a_config_that_can_be_read_back(polymodal: Polymodal) -> None:
    done = polymodal("clip-vit-b32")
    assert ClipConfig.parse(yaml.safe_load(done.out), "stdout") == MODELS["clip-vit-b32"]


def test_it_converts_a_checkpoint(polymodal: Polymodal, tmp_path: Path) -> None:
    config = {"image": tiny.vit_config(heads=1), "text": tiny.text_config(heads=1, pool="eos")}
    pretrained = published.Pretrained(tiny.clip(**config), tiny.tokenizer(), tiny.preprocess())
    published.save(pretrained, tmp_path / "hf")
    done = polymodal(tmp_path / "hf", "--save", tmp_path / "flat", "--layout", "openai", "--json")
    assert done.code == 0, done.err
    shown = json.loads(done.out)
    assert shown["parameters"] == sum(parameter.numel() for parameter in pretrained.model.parameters())
    assert shown["config"] == pretrained.config.to_dict() | {
        "image": pretrained.config.image.to_dict() | {"mlp_width": 64},
        "text": pretrained.config.text.to_dict() | {"mlp_width": 64},
    }
    assert "written in layout openai" in done.err
    assert (tmp_path / "flat" / "model.safetensors").is_file()


def test_mistakes_say_what_to_do(polymodal: Polymodal) -> None:
    done = polymodal("clip-vit-b31")
    assert done.code == 2
    assert 'no model is named "clip-vit-b31"; did you mean "clip-vit-b' in done.err
    done = polymodal("clip-tiny", "--save", "somewhere")
    assert done.code == 2
    assert '"clip-tiny" is an architecture without weights; --save needs a checkpoint to read' in done.err
    done = polymodal("--save", "somewhere")
    assert done.code == 2
    assert "--save needs a checkpoint to read" in done.err
    done = polymodal("./nothing")
    assert done.code == 1
    assert "./nothing: no such file or folder" in done.err
