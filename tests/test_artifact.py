import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from polymodal import artifact
from polymodal.card import Card
from polymodal.errors import ArtifactError
from tests import tiny

PREPROCESS = tiny.preprocess()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return artifact.save(
        tmp_path / "cats",
        model=tiny.clip(),
        tokenizer=tiny.tokenizer(),
        preprocess=PREPROCESS,
        metrics={"val": {"R@1": 0.5}},
    )


def message(folder: Path) -> str:
    with pytest.raises(ArtifactError) as error:
        artifact.load(folder)
    return str(error.value)


def sign(folder: Path) -> None:
    """New checksums, so that what is behind them is looked at."""
    files = sorted(file for file in folder.iterdir() if file.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_what_comes_back_answers_as_what_was_saved(folder: Path) -> None:
    saved, loaded = tiny.clip(), artifact.load(folder)
    pixels, text = PREPROCESS.image.normalize(tiny.pixels(4)), tiny.text(4)
    again = loaded.tokenizer
    assert again is not None
    assert torch.equal(again(tiny.CAPTIONS[:4], PREPROCESS.text).ids, text.ids)
    assert loaded.preprocess == PREPROCESS
    assert loaded.config == saved.config
    assert loaded.metrics == {"val": {"R@1": 0.5}}
    assert not loaded.model.training
    with torch.inference_mode():
        for ours, theirs in zip(loaded.model(pixels, text)[:3], saved(pixels, text)[:3], strict=True):
            assert torch.equal(ours, theirs)


def test_it_can_be_trained_further(folder: Path) -> None:
    loaded = artifact.load(folder).model
    assert {name: weight.requires_grad for name, weight in loaded.named_parameters()} == {
        name: weight.requires_grad for name, weight in tiny.clip().named_parameters()
    }
    with torch.no_grad():
        next(loaded.parameters()).add_(1)  # a mapped file must not change under it
    artifact.load(folder)


def test_whoever_may_read_one_file_may_read_all(folder: Path) -> None:
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1


def test_the_system_s_own_tool_reads_the_checksums(folder: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum on this system")
    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    checked = {line.split(":")[0] for line in done.stdout.splitlines()}
    assert checked == {file.name for file in folder.iterdir()} - {"SHA256SUMS"}


def test_it_loads_in_another_process_without_the_training_side(folder: Path) -> None:
    code = f"""
import sys
from polymodal import artifact
artifact.load({str(folder)!r})
assert not [name for name in sys.modules if "lightning" in name or name.startswith("polymodal.train")]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def list_also(folder: Path, name: str) -> None:
    with (folder / "SHA256SUMS").open("a") as stream:
        stream.write(f"{'0' * 64}  {name}\n")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


FILES = ["README.md", "config.json", "metrics.json", "model.safetensors", "preprocess.json", "tokenizer.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("change", "reason"), [(flip, "was changed"), (cut, "cut short"), (Path.unlink, "is missing")])
def test_damage_to_any_file_is_refused_by_its_name(
    folder: Path, name: str, change: Callable[[Path], object], reason: str
) -> None:
    change(folder / name)
    refusal = message(folder)
    assert refusal.startswith(f'artifact "{folder}": {name} ')
    assert reason in refusal
    remedy = "put the output of `sha256sum README.md` into SHA256SUMS" if name == "README.md" else "copy the artifact"
    assert reason == "is missing" or remedy in refusal


def test_every_damaged_file_is_named_at_once(folder: Path) -> None:
    cut(folder / "config.json")
    (folder / "tokenizer.json").unlink()
    refusal = message(folder)
    assert "config.json was changed" in refusal
    assert "tokenizer.json is missing" in refusal
    assert [problem.file for problem in artifact.verify(folder)] == ["config.json", "tokenizer.json"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
        (lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff\xfe"), "SHA256SUMS cannot be read"),
        (lambda folder: (folder / "SHA256SUMS").write_text(""), "SHA256SUMS does not list model.safetensors"),
        (lambda folder: (folder / "SHA256SUMS").write_text("hello\n"), "SHA256SUMS is damaged in line 1"),
        (lambda folder: list_also(folder, "../outside"), "SHA256SUMS is damaged in line 7"),
        (lambda folder: list_also(folder, "gone.json"), "gone.json is missing"),
        (
            lambda folder: (folder / "extra.safetensors").write_bytes(b"x"),
            "extra.safetensors is not listed in SHA256SUMS: it was added later; move it out of the folder",
        ),
        (lambda folder: (folder / "model.pkl").write_bytes(b"x"), "model.pkl is not listed"),
    ],
)
def test_the_list_itself_is_held_to_account(folder: Path, change: Callable[[Path], object], reason: str) -> None:
    change(folder)
    assert reason in message(folder)


def test_a_note_beside_the_files_does_no_harm(folder: Path) -> None:
    (folder / "notes.txt").write_text("best so far")
    artifact.load(folder)


def test_another_format_is_refused_with_both_versions(folder: Path) -> None:
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, "format": "polymodal-artifact-9", "polymodal": "7.0"}))
    sign(folder)
    assert (
        "config.json says format 'polymodal-artifact-9' (by polymodal 7.0), wanted 'polymodal-artifact-1'; "
        "read it with the polymodal that wrote it, or upgrade this one"
    ) in message(folder)


def test_weights_that_do_not_fit_the_config_are_named(folder: Path) -> None:
    about = json.loads((folder / "config.json").read_text())
    about["model"]["image"]["layers"] = 3
    about["model"]["text"]["width"] = 32
    about["model"]["bias"] = -10.0
    (folder / "config.json").write_text(json.dumps(about))
    sign(folder)
    refusal = message(folder)
    assert "model.safetensors does not fit config.json" in refusal
    assert "weights that the config wants are missing: bias, image_encoder." in refusal
    assert "weights have another shape" in refusal
    assert "(wanted (" in refusal


@pytest.mark.parametrize(
    ("name", "written", "reason"),
    [
        ("config.json", "{", "config.json is not JSON"),
        ("config.json", "[]", "config.json holds a list, wanted an object"),
        (
            "preprocess.json",
            '{"image": {"sise": 3}}',
            'preprocess.json: unknown key "image.sise"; did you mean "size"?',
        ),
        ("model.safetensors", "nonsense", "model.safetensors cannot be read"),
        ("tokenizer.json", "{}", "the tokenizer cannot be read"),
    ],
)
def test_nonsense_with_a_valid_checksum_is_still_refused(folder: Path, name: str, written: str, reason: str) -> None:
    (folder / name).write_text(written)
    sign(folder)
    assert reason in message(folder)


def test_what_is_not_an_artifact_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    assert "the folder does not exist; check the path" in message(tmp_path / "no")
    (tmp_path / "empty").mkdir()
    lacks = "config.json, model.safetensors, preprocess.json, SHA256SUMS"
    assert f"the folder is not an artifact: it has no {lacks}; name the folder that fit printed" in message(
        tmp_path / "empty"
    )


def test_saving_replaces_an_artifact_and_leaves_nothing_beside_it(folder: Path) -> None:
    other = tiny.clip(temperature=0.5)
    artifact.save(folder, model=other, tokenizer=None, preprocess=PREPROCESS)
    loaded = artifact.load(folder)
    assert loaded.config.to_dict()["temperature"] == 0.5
    assert loaded.tokenizer is None
    assert [file.name for file in folder.parent.iterdir()] == ["cats"]


@pytest.mark.parametrize("name", ["SHA256SUMS", "config.json", "thesis.doc"])
def test_saving_never_overwrites_what_is_not_an_artifact(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("{}")
    with pytest.raises(ArtifactError, match="exists and is not an artifact: it is not overwritten"):
        artifact.save(tmp_path / "mine", model=tiny.clip(), tokenizer=None, preprocess=PREPROCESS)
    assert (tmp_path / "mine" / name).read_text() == "{}"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    artifact.save(tmp_path / "new", model=tiny.clip(), tokenizer=None, preprocess=PREPROCESS)
    artifact.load(tmp_path / "new")


def test_a_save_that_fails_leaves_the_previous_artifact_and_no_litter(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        artifact.save(folder, model=tiny.clip(), tokenizer=None, preprocess=PREPROCESS)
    assert artifact.verify(folder) == []
    assert [file.name for file in folder.parent.iterdir()] == ["cats"]


def test_weights_that_load_could_not_place_are_refused_when_saving(tmp_path: Path) -> None:
    changed = tiny.clip()
    changed.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ArtifactError, match=r"2 weights have no place in the config: extra\.bias, extra\.weight"):
        artifact.save(tmp_path / "a", model=changed, tokenizer=None, preprocess=PREPROCESS)
    assert not list(tmp_path.iterdir())


def test_the_card_has_the_header_that_hubs_read(tmp_path: Path) -> None:
    card = Card(description="猫 and dogs", license="apache-2.0", language=("en", "zh"), datasets=("emoji",))
    folder = artifact.save(
        tmp_path / "cats",
        model=tiny.clip(),
        tokenizer=tiny.tokenizer(),
        preprocess=PREPROCESS,
        metrics={"val": {"R@1": 0.512345, "note": "x", "diverged": float("nan")}, "epochs": 3},
        recipe={"trainer": {"epochs": 3}},
        card=card,
    )
    _, header, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "polymodal",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["polymodal", "clip"],
        "license": "apache-2.0",
        "language": ["en", "zh"],
        "datasets": ["emoji"],
        "metrics": ["val.R@1", "epochs"],
    }
    assert "猫 and dogs" in body
    assert "| val.R@1 | 0.512345 |" in body
    assert yaml.safe_load((folder / "recipe.yaml").read_text()) == {"trainer": {"epochs": 3}}
    assert artifact.load(folder).metrics["val"]["diverged"] is None  # JSON has no word for not-a-number
