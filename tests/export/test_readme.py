"""The lines of the README, run as they stand where neither torch nor polymodal can be imported."""

import re
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import polymodal as pm
from polymodal import artifact
from polymodal.data.feature_rows import FeatureRows
from polymodal.export.readme import code
from polymodal.features import AudioInput, Features, ImageInput, TextInput
from polymodal.preprocess import AudioPreprocess, ImagePreprocess, TextPreprocess
from tests import tiny
from tests.export import small

BLOCKED = """
import sys
for name in ("torch", "polymodal", "torchvision", "transformers"):
    sys.modules[name] = None
"""


def lines_of(folder: Path) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    return str(found)


def run_alone(folder: Path, lines: str, kept: str) -> Any:
    """What the lines leave in a variable, in a process of their own."""
    program = f"{BLOCKED}{lines}\nnp.save('kept.npy', {kept})\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return np.load(folder / "kept.npy")


def photo(folder: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (40, 57, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((171, 120)).save(folder / "photo.jpg")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_the_lines_of_a_clip_say_what_the_engine_says(format: Any, tmp_path: Path) -> None:  # noqa: A002
    saved = artifact.save(
        tmp_path / "tiny", model=tiny.clip(), tokenizer=tiny.tokenizer(), preprocess=tiny.preprocess()
    )
    folder = pm.export(saved, tmp_path / "out", format=format).folder
    photo(folder)
    logits = run_alone(folder, lines_of(folder), "logits")
    engine = pm.load(saved)
    images = engine.embed(images=[folder / "photo.jpg"])
    texts = engine.embed(texts=["a photo of a dog", "一张猫的照片"])
    np.testing.assert_allclose(logits, images @ texts.T / 0.07, atol=1e-3)


@pytest.mark.slow
def test_the_lines_of_a_table_say_what_the_predictor_says(tmp_path: Path) -> None:
    model, features = small.rows({"photo": small.IMAGE, "notes": small.TEXT, "record": small.RECORD})
    notes = TextInput(columns=("notes",), preprocess=TextPreprocess(max_length=12))
    features = features.model_copy(update={"inputs": features.inputs | {"notes": notes}})
    saved = artifact.save(tmp_path / "rows", model=model, tokenizer=tiny.tokenizer(), preprocess=features)
    folder = pm.export(saved, tmp_path / "out").folder
    photo(folder)
    lines = lines_of(folder)
    got = run_alone(folder, lines, "np.concatenate([np.ravel(said['logits.' + t]) for t in sorted(['kind', 'stars'])])")
    row = {"photo": str(folder / "photo.jpg"), "notes": "a dog 一只狗"}
    record: Any = features.inputs["record"]
    row |= {one.name: one.mean for one in record.numbers} | {one.name: one.values[0] for one in record.categories}
    predictor = pm.load(saved)
    found = predictor.outputs(predictor.rows([row]))
    np.testing.assert_allclose(got, np.concatenate([found[name].ravel() for name in ("kind", "stars")]), atol=1e-4)


@pytest.mark.parametrize("features", ["log_mel", "samples"])
def test_sounds_become_the_steps_that_the_model_reads(features: Any, tmp_path: Path) -> None:
    sound = AudioPreprocess(features=features, mels=20, seconds=0.4)
    settings = Features(inputs={"sound": AudioInput(column="sound", preprocess=sound)})
    noise = (np.random.default_rng(2).standard_normal(5000) * 3000).astype("<i2")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(noise.tobytes())
    from polymodal.export.readme import filters_of
    from polymodal.layers.log_mel import mel_filters

    for name, one in filters_of(settings).items():
        np.save(tmp_path / name, mel_filters(one.rate, one.window, one.mels).numpy())
    lines = code("onnx", settings, None).partition("arrays = {}")[0]
    got = run_alone(tmp_path, lines, 'sound_0("sound.wav")')
    batch = FeatureRows([{"sound": str(tmp_path / "sound.wav")}], settings).batch([0])
    values: Any = batch.inputs["sound"]
    np.testing.assert_allclose(got, values.values[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_pictures_become_the_pixels_that_the_model_reads(fit: Any, tmp_path: Path) -> None:
    picture = ImagePreprocess(size=33, fit=fit, interpolation="bilinear", background=(9, 8, 7))
    settings = Features(inputs={"图": ImageInput(column="图", preprocess=picture)})
    noise = np.random.default_rng(3).integers(0, 256, (50, 71, 4), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg", format="png")
    lines = code("onnx", settings, None).partition("arrays = {}")[0]
    got = run_alone(tmp_path, lines, 'pixels_0("photo.jpg")')
    batch = FeatureRows([{"图": str(tmp_path / "photo.jpg")}], settings).batch([0])
    np.testing.assert_array_equal(got, batch.inputs["图"])
