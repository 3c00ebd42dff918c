"""Spoken prompts: the table as it must be, one small fold from end to end, and the numbers of RESULTS.md."""

import gzip
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from tests.examples.load import EXAMPLES, script

build, demo = script("speech/build.py"), script("speech/demo.py")
TEXTS = (
    ";comment: this is none",
    "digits/1: one",
    "phonetic/one: One.",
    "vm-goodbye: Goodbye!",
    "letters/at: at [@]",
    'spy-iax2: IAX (note: does not say "2")',
    "beep: [this is a simple beep tone]",
    "silence/2: (2 seconds of silence)",
    "confbridge-join: <beep ascending>",
    "no-sound: there is no file of this one",
    *(f"say/{number}: please press {number} and wait {'for a long time ' * (number % 3)}now" for number in range(20)),
)
SMALL = (
    "data.inputs.audio.seconds=1",
    "model.encoders.audio.width=16",
    "model.encoders.audio.layers=1",
    "model.encoders.text.width=16",
    "model.encoders.text.layers=1",
    "model.fusion.width=16",
    "objectives=[{kind: contrastive, first: audio, second: text, width: 8}]",
    "trainer.batch_size=8",
    "trainer.steps=2",
)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two packages unpack to, in small: tones of 8 kHz in the place of speech."""
    root = tmp_path_factory.mktemp("unpacked")
    transcripts = root / build.TRANSCRIPTS
    transcripts.parent.mkdir(parents=True)
    transcripts.write_bytes(gzip.compress("\n".join(TEXTS).encode()))
    for number, line in enumerate(TEXTS):
        name, _, text = line.partition(":")
        if name in (";comment", "no-sound"):
            continue
        sound = root / build.VOICE / f"{name}.wav"
        sound.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(80 * len(text)) / 8000
        soundfile.write(sound, 0.3 * np.sin(2 * np.pi * (200 + 50 * number) * time), 8000, subtype="PCM_16")
    return root


@pytest.fixture(scope="module")
def table(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("speech") / "speech.parquet"
    pq.write_table(build.build(unpacked), file)
    return file


def test_the_table_has_what_is_spoken(unpacked: Path) -> None:
    rows = {row["name"]: row for row in build.build(unpacked).to_pylist()}
    assert len(rows) == 25
    assert rows["letters/at"]["text"] == "at"
    assert rows["spy-iax2"]["text"] == "IAX"
    assert rows["say/1"]["words"] == 10
    assert rows["digits/1"]["fold"] == rows["phonetic/one"]["fold"]  # the same words are never on both sides
    assert {row["fold"] for row in rows.values()} == {"0", "1", "2", "3", "4"}
    assert soundfile.info(io.BytesIO(rows["vm-goodbye"]["audio"])).samplerate == 8000


def test_without_apt_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"no apt-get to fetch it: take it from a Debian mirror.*--debs"):
        build.packages(tmp_path)


def test_another_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"asterisk-core-sounds-en-wav_{build.VERSION}_all.deb").write_bytes(b"something else")
    with pytest.raises(SystemExit, match=r"its SHA-256 is [0-9a-f]{64}, wanted 2be3ea28"):
        build.packages(tmp_path)


@pytest.fixture(scope="module")
def fold(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("fold")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYMODAL_CACHE", str(out / "cache"))
        return demo.hold_out(table, 0, out / "run", list(SMALL))


def test_a_fold(table: Path, fold: Any) -> None:
    rows = [row for row in pq.read_table(table).to_pylist() if row["fold"] == "0"]
    words = [build.plain(row["text"]) for row in rows]
    assert fold.clips.shape == (len(rows), 8)
    assert fold.texts.shape == (len(set(words)), 8)
    assert fold.pairs.sum(1).tolist() == [1] * len(rows)
    assert fold.pairs.sum(0).tolist() == [words.count(text) for text in sorted(set(words))]
    torch.testing.assert_close(fold.clips.norm(dim=1), torch.ones(len(rows)))
    # Tones are as long as their texts, but for marks that no word has: the ruler is all but always right.
    seconds = torch.tensor([soundfile.info(io.BytesIO(row["audio"])).duration for row in rows])
    nearest = torch.tensor([len(text) for text in sorted(set(words))])[fold.by_length.argmax(1)]
    assert fold.by_length.shape == fold.pairs.shape
    assert bool(((nearest - 100 * seconds).abs() <= 4).all())


def test_summary_of_known_vectors() -> None:
    """Three clips of two texts: the third clip is nearest to the wrong text, and no text's best clip is wrong."""
    clips = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    texts = torch.eye(2)
    pairs = torch.tensor([[True, False], [False, True], [False, True]])
    one = demo.Fold(clips, texts, pairs, torch.tensor([[0.0, -9.0], [0.0, -9.0], [-9.0, 0.0]]))
    found = demo.summarize([one, one])
    speech, text = (found[way] for way in demo.WAYS)
    assert speech["questions"] == 6
    assert text["questions"] == 4
    assert speech["candidates"] == [2, 2]
    assert speech["model"]["R@1"]["value"] == pytest.approx(2 / 3)
    assert speech["length"]["R@1"]["value"] == pytest.approx(2 / 3)
    assert text["model"]["R@1"]["value"] == 1.0
    assert speech["chance"]["R@1"] == pytest.approx(0.5)
    assert text["chance"]["R@1"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert speech["model"]["R@5"]["value"] == 1.0


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="needs apt and dpkg of a Debian")
def test_the_demo(tmp_path: Path) -> None:
    """One fold: what was not heard in training is found oftener than chance and length can."""
    table, scripts = tmp_path / "speech.parquet", EXAMPLES / "speech"
    made = [sys.executable, str(scripts / "build.py"), str(table), "--debs", str(tmp_path / "debs")]
    subprocess.run(made, check=True)
    assert pq.read_metadata(table).num_rows == 551
    ran = [sys.executable, str(scripts / "demo.py"), str(table), "--out", str(tmp_path / "out"), "--folds", "1"]
    subprocess.run(ran, check=True)
    found = json.loads((tmp_path / "out" / "speech.json").read_text(encoding="utf-8"))
    for way in demo.WAYS:
        assert found[way]["model"]["R@10"]["low"] > 3 * found[way]["chance"]["R@10"]
        assert found[way]["model"]["R@10"]["value"] > found[way]["length"]["R@10"]["high"]
