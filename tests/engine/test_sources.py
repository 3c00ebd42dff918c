import json
from pathlib import Path

import numpy as np
import pytest

import polymodal as pm
from polymodal import artifact
from polymodal.errors import ArtifactError
from polymodal.models import published
from polymodal.models.published import Pretrained
from tests import tiny


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, with its artifact."""
    artifact.save(
        tmp_path / "run-a" / "artifact",
        model=tiny.clip(),
        tokenizer=tiny.tokenizer(),
        preprocess=tiny.preprocess(),
        metrics={"loss": 1.5},
    )
    return tmp_path / "run-a"


def refusal(source: str | Path) -> str:
    with pytest.raises(ArtifactError) as error:
        pm.load(source)
    return str(error.value)


def test_a_run_and_its_artifact_are_the_same_engine(run: Path) -> None:
    ours, theirs = pm.load(run), pm.load(str(run / "artifact"))
    assert ours.checksum == theirs.checksum == artifact.load(run / "artifact").checksum
    assert ours.metrics == {"loss": 1.5}
    assert np.array_equal(ours.embed(texts=["a dog"]), theirs.embed(texts=["a dog"]))


def test_a_released_folder_answers_as_the_artifact_does(run: Path, tmp_path: Path) -> None:
    published.save(Pretrained(tiny.clip(), tiny.tokenizer(), tiny.preprocess()), tmp_path / "released")
    ours, theirs = pm.load(run), pm.load(tmp_path / "released")
    picture = np.full((30, 20, 3), 77, np.uint8)
    np.testing.assert_allclose(
        ours.similarity([picture], ["a dog"]), theirs.similarity([picture], ["a dog"]), atol=1e-6
    )
    assert theirs.checksum == pm.load(tmp_path / "released").checksum


def test_a_name_nearby_is_suggested(run: Path) -> None:
    assert refusal(run.parent / "run-b") == f'"{run.parent}/run-b": no such folder; did you mean "{run}"?'
    assert "`polymodal fit` prints where it left the artifact" in refusal(run.parent / "zzzzzzzzzzzzzzzzzzzzz" / "q")
    assert 'a model of the hub is named "hub:openai/clip-vit-base-patch32"' in refusal("openai/clip-vit-base-patch32")


def test_a_file_of_an_artifact_is_answered_with_its_folder(run: Path) -> None:
    file = run / "artifact" / "model.safetensors"
    assert refusal(file) == f'"{file}" is a file of an artifact; name its folder, "{file.parent}"'


def test_a_run_without_an_artifact_says_so(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("")
    assert (
        refusal(tmp_path)
        == f'"{tmp_path}" is a run that has left no artifact yet; let `polymodal fit` end, or resume it'
    )


def test_a_folder_of_something_else_is_no_artifact(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "the folder is not an artifact: it has no config.json" in refusal(tmp_path)


def test_a_damaged_artifact_is_refused(run: Path) -> None:
    file = run / "artifact" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model": {}}))
    assert "config.json was changed or cut short" in refusal(run)
    file.write_text("{")
    assert "config.json was changed or cut short" in refusal(run)


def test_a_lone_tower_is_no_model_of_pictures_and_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = Pretrained(tiny.vit_config().build(), None, tiny.preprocess())
    monkeypatch.setattr(published, "load", lambda source: tower)
    assert '"hub:google/vit" holds one tower (Vit), not a model of pictures and texts' in refusal("hub:google/vit")
