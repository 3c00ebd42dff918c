import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import polymodal as pm
from polymodal import artifact
from polymodal.errors import ArtifactError, ConfigError
from polymodal.features import Features, TextInput
from polymodal.fusion.late import LateConfig
from polymodal.models import published
from polymodal.models.heads import HeadsConfig
from polymodal.models.multimodal import MultimodalConfig
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


def photo() -> bytes:
    """A JPEG so large that `fast` decodes a quarter of it, of patterns that show how it was made smaller."""
    draw = np.random.default_rng(4).integers(0, 256, (30, 40, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(draw).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_decoding_is_the_artifacts_unless_asked_for(run: Path, tmp_path: Path) -> None:
    artifact.save(
        tmp_path / "fast",
        model=tiny.clip(),
        tokenizer=tiny.tokenizer(),
        preprocess=tiny.preprocess().with_decoding("fast"),
    )
    engines = [pm.load(run), pm.load(run, decoding="fast"), pm.load(tmp_path / "fast"), pm.load(run, decoding="exact")]
    assert [one.preprocess.image.decoding for one in engines] == ["exact", "fast", "fast", "exact"]
    exact, asked, own, again = (one.embed(images=[photo()]) for one in engines)
    np.testing.assert_array_equal(asked, own)
    np.testing.assert_array_equal(exact, again)
    assert not np.array_equal(exact, asked)
    assert (exact @ asked.T).item() > 0.99


def test_a_released_folder_is_decoded_as_asked(run: Path, tmp_path: Path) -> None:
    published.save(Pretrained(tiny.clip(), tiny.tokenizer(), tiny.preprocess()), tmp_path / "released")
    assert pm.load(tmp_path / "released").preprocess.image.decoding == "exact"
    assert pm.load(tmp_path / "released", decoding="fast").preprocess.image.decoding == "fast"


def test_a_decoding_that_cannot_be_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="decoding must be exact or fast, got 'quick'"):
        pm.load(run, decoding="quick")  # type: ignore[arg-type]
    texts = Features(inputs={"text": TextInput(columns=("t",))})
    config = MultimodalConfig(
        encoders={"text": tiny.text_config()},
        fusion=LateConfig(weights="concat", width=16),
        heads=HeadsConfig(targets={}),
    )
    artifact.save(tmp_path / "texts", model=config.build(), tokenizer=tiny.tokenizer(), preprocess=texts)
    with pytest.raises(ConfigError, match=r'decoding=fast: ".*texts" reads no pictures, it reads text'):
        pm.load(tmp_path / "texts", decoding="fast")
