"""Sounds of every kind and every fault; the files are real ones, written by libsndfile."""

import io
import struct
import sys
import tarfile
import tracemalloc
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from polymodal.data.sound import SilentSound, SoundError, is_silent, is_sound, read_sound, resample, steps
from polymodal.errors import ConfigError
from polymodal.layers.log_mel import log_mel
from polymodal.preprocess import AudioPreprocess

PLAIN = AudioPreprocess()
RATE = 16000


def tone(rate: int = RATE, seconds: float = 0.5, hertz: float = 440.0, gain: float = 0.4) -> NDArray[np.float32]:
    return (gain * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def file(samples: NDArray[np.float32], rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def fault(content: bytes | str | Path, root: Path | None = None) -> SoundError:
    with pytest.raises(SoundError) as caught:
        read_sound(content, PLAIN, root)
    return caught.value


KINDS = [
    ("WAV", "PCM_U8", 1 / 64),
    ("WAV", "PCM_16", 1 / 16000),
    ("WAV", "PCM_24", 1e-6),
    ("WAV", "PCM_32", 1e-6),
    ("WAV", "FLOAT", 0.0),
    ("WAV", "DOUBLE", 0.0),
    ("WAVEX", "PCM_24", 1e-6),
    ("RF64", "PCM_16", 1 / 16000),
    ("FLAC", "PCM_16", 1 / 16000),
    ("FLAC", "PCM_24", 1e-6),
    ("AIFF", "PCM_16", 1 / 16000),
    ("AU", "PCM_16", 1 / 16000),
    ("CAF", "PCM_16", 1 / 16000),
    ("OGG", "VORBIS", 0.05),
    ("OGG", "OPUS", 0.05),
    ("MP3", "MPEG_LAYER_III", 0.05),
]


@pytest.mark.parametrize(("kind", "subtype", "error"), KINDS, ids=[f"{kind} {subtype}" for kind, subtype, _ in KINDS])
def test_every_format_gives_what_was_written(kind: str, subtype: str, error: float) -> None:
    samples = tone()
    content = file(samples, kind=kind, subtype=subtype)
    assert is_sound(content[:12])
    found = read_sound(content, PLAIN)
    assert found.dtype == np.float32
    assert found.shape == samples.shape
    middle = slice(2000, -2000)  # what compresses with loss is off where the sound sets in
    assert np.abs(found - samples)[middle].max() <= error


def test_a_path_and_a_folder_and_bytes_are_the_same_sound(tmp_path: Path) -> None:
    (tmp_path / "声音").mkdir()
    path = tmp_path / "声音" / "a b.wav"
    path.write_bytes(file(tone()))
    for found in (read_sound(path, PLAIN), read_sound(str(path), PLAIN), read_sound("声音/a b.wav", PLAIN, tmp_path)):
        assert np.array_equal(found, read_sound(path.read_bytes(), PLAIN))


def test_a_member_of_an_archive(tmp_path: Path) -> None:
    content = file(tone())
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        member = tarfile.TarInfo("one.wav")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    assert np.array_equal(read_sound("0.tar#one.wav", PLAIN, tmp_path), read_sound(content, PLAIN))
    error = fault("0.tar#two.wav", tmp_path)
    assert str(error) == "0.tar#two.wav: there is no such member in the archive; correct the name, or fetch the archive"
    assert error.kind == "missing"


@pytest.mark.parametrize("channels", [2, 3, 6, 32])
def test_channels_are_averaged(channels: int) -> None:
    all_of_them = np.random.default_rng(channels).uniform(-1, 1, (4000, channels)).astype(np.float32)
    found = read_sound(file(all_of_them, subtype="FLOAT"), PLAIN)
    np.testing.assert_allclose(found, all_of_them.astype(np.float64).mean(1), atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_other_rates_are_resampled(rate: int) -> None:
    found = read_sound(file(tone(rate), rate, subtype="FLOAT"), PLAIN)
    assert found.dtype == np.float32
    assert len(found) == pytest.approx(RATE / 2, abs=1)
    middle = slice(400, 7600)
    assert np.abs(found[middle] - tone()[middle]).max() < 2e-3


def test_what_the_lower_rate_cannot_hold_does_not_come_back_as_another_tone() -> None:
    high = resample(tone(48000, hertz=11000), 48000, RATE)  # would fold to 5000 Hz
    assert np.abs(high[400:-400]).max() < 0.005


@given(
    rate=st.integers(1000, 60000),
    count=st.integers(1, 3000),
    seconds=st.floats(0.001, 0.2),
    wanted=st.sampled_from([8000, 16000, 48000]),
)
@settings(max_examples=40, deadline=None)
def test_there_are_as_many_samples_as_the_file_and_the_limit_allow(
    rate: int, count: int, seconds: float, wanted: int
) -> None:
    preprocess = AudioPreprocess(rate=wanted, seconds=max(seconds, 1 / wanted))
    samples = np.random.default_rng(count).uniform(-1, 1, count).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SilentSound)  # a single sample is one
        found = read_sound(file(samples, rate, subtype="FLOAT"), preprocess)
    assert 1 <= len(found) <= preprocess.max_samples
    assert len(found) == pytest.approx(min(count / rate, preprocess.seconds) * wanted, abs=1 + wanted / rate)
    assert np.isfinite(found).all()


def test_of_a_long_file_only_the_beginning_is_read() -> None:
    """Ten minutes in eight channels; what one second of it takes is a thousandth."""
    content = file(np.tile(tone(8000, 1.0), 600)[:, None].repeat(8, 1), 8000)
    preprocess = AudioPreprocess(seconds=1.0)
    read_sound(content, preprocess)  # imports
    tracemalloc.start()
    found = read_sound(content, preprocess)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == RATE
    assert peak < 2 * 2**20 < len(content) / 10


# ---------------------------------------------------------------------------------------------------------------------
# Faults


def test_there_is_no_such_file(tmp_path: Path) -> None:
    error = fault("a.wav", tmp_path)
    expected = f"{tmp_path}/a.wav: there is no such file; correct the path, or give the folder of the sounds"
    assert str(error) == expected
    assert error.kind == "missing"
    assert str(fault(tmp_path)).startswith(f"{tmp_path}: is no file, wanted a sound; ")
    assert fault("nul\0.wav").kind == "missing"


def test_empty_and_without_samples() -> None:
    assert str(fault(b"")) == "bytes: is empty (0 bytes); fetch it again or leave it out"
    error = fault(file(np.zeros(0, np.float32)))
    assert str(error) == "bytes: has no samples (0 seconds); record it again or leave it out"
    assert error.kind == "no-samples"


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><p>", b"\x89PNG\r\n\x1a\n0000", b"RIFF\0\0\0\0WEBPVP8 ", b"a"])
def test_not_a_sound(content: bytes) -> None:
    error = fault(content)
    assert str(error) == (
        f"bytes: is not a sound (it begins with {content[:8]!r}); convert it to WAV or FLAC, or give another column"
    )
    assert error.kind == "not-a-sound"


@pytest.mark.parametrize("share", [0.98, 0.5, 0.2])
@pytest.mark.parametrize(("kind", "subtype"), [(kind, subtype) for kind, subtype, _ in KINDS])
def test_cut_off_anywhere(kind: str, subtype: str, share: float) -> None:
    content = file(tone(seconds=2), kind=kind, subtype=subtype)
    error = fault(content[: int(len(content) * share)])
    assert error.kind in ("truncated", "unreadable")
    assert "is cut off (" in str(error) or "is damaged or cut off (" in str(error)
    assert str(error).endswith("; fetch it again or leave it out")


def test_what_a_cut_off_file_is_told() -> None:
    content = file(tone())
    assert "is cut off (its header promises more than there is)" in str(fault(content[:4000]))
    assert "is damaged or cut off (Error in WAV file" in str(fault(content[:30]))
    opus = file(tone(seconds=2), kind="OGG", subtype="OPUS")
    for end in (opus.rindex(b"OggS"), len(opus) - 9):
        assert "is cut off (its last page is missing)" in str(fault(opus[:end]))
    mp3 = file(tone(seconds=2), kind="MP3")
    assert " of 32000 samples can be read)" in str(fault(mp3[: len(mp3) // 2]))


def test_headers_of_recorders_that_could_not_go_back_are_borne() -> None:
    content = file(tone())
    at = content.index(b"data") + 4
    streamed = content[:4] + b"\xff" * 4 + content[8:at] + b"\xff" * 4 + content[at + 4 :]
    assert np.array_equal(read_sound(streamed, PLAIN), read_sound(content, PLAIN))
    assert np.array_equal(read_sound(content + b"LISTjunk" * 9, PLAIN), read_sound(content, PLAIN))


def test_a_stream_without_a_length() -> None:
    content = bytearray(file(tone(), kind="FLAC"))
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    content[22:26] = bytes(4)
    error = fault(bytes(content))
    assert "does not say how long it is, as a stream that was never closed; convert it" in str(error)
    assert error.kind == "no-length"


def wav(rate: int = RATE, channels: int = 1, data: bytes = b"\x01\x20" * 640) -> bytes:
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
    return (
        b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + form + b"data" + struct.pack("<I", len(data)) + data
    )


@pytest.mark.parametrize("rate", [10, 999, 384_001, 2_000_000])
def test_a_rate_that_no_recorder_has(rate: int) -> None:
    error = fault(wav(rate))
    assert f"has {rate} samples a second, wanted 1000 to 384000; its header is damaged, or it is no sound" in str(error)
    assert error.kind == "rate"


def test_more_channels_than_a_recorder_has() -> None:
    error = fault(wav(channels=64))
    assert str(error) == "bytes: has 64 channels, wanted at most 32; mix it down first"
    assert error.kind == "channels"
    assert fault(wav(channels=0)).kind == "unreadable"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20])
def test_values_that_are_no_sound(value: float) -> None:
    samples = tone()
    samples[100] = value
    error = fault(file(samples, subtype="FLOAT"))
    assert "has samples that are not finite, or far outside of -1 to 1; convert it to 16-bit PCM" in str(error)
    assert error.kind == "not-finite"


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silence_is_named_and_used(tmp_path: Path, level: float) -> None:
    path = tmp_path / "still.wav"
    path.write_bytes(file(np.full(8000, level, np.float32)))
    with pytest.warns(SilentSound, match=r"still\.wav: is silent; it is used as it is"):
        found = read_sound(path, PLAIN)
    assert found.tolist() == [level] * 8000
    assert is_silent(found)


def test_a_quiet_sound_is_not_silent() -> None:
    assert not is_silent(read_sound(file(tone(gain=2**-11)), PLAIN))


def test_the_dither_of_silence_is_silent() -> None:
    """As in recordings of silence that telephones play: noise of two steps of 16 bits to either side."""
    dither = np.random.default_rng(1).integers(-2, 3, 8000) / 2**15
    with pytest.warns(SilentSound):
        read_sound(file(dither.astype(np.float32)), PLAIN)


def test_steps_are_log_mel_frames_or_samples_of_variance_one() -> None:
    samples = tone() + np.float32(0.1)
    frames = steps(samples, PLAIN)
    assert frames.shape == (50, PLAIN.channels) == (50, 80)
    assert np.array_equal(frames, log_mel(samples, PLAIN).numpy())
    wave = AudioPreprocess(features="samples")
    found = steps(samples, wave)
    assert found.shape == (8000, wave.channels) == (8000, 1)
    extractor: Any = import_module("transformers").Wav2Vec2FeatureExtractor(do_normalize=True)
    expected = extractor(samples, sampling_rate=RATE, return_tensors="np").input_values[0]
    assert np.abs(found[:, 0] - expected).max() <= 1e-5
    assert np.isfinite(steps(np.zeros(10, np.float32), wave)).all()


@given(
    st.binary(max_size=300),
    st.sampled_from([b"RIFF....WAVEfmt ", b"fLaC", b"OggS", b"ID3", b"\xff\xfb\x90", b".snd", b""]),
)
@settings(max_examples=150, deadline=None)
def test_noise_in_place_of_a_file_is_a_fault_and_nothing_else(content: bytes, head: bytes) -> None:
    with warnings.catch_warnings(), suppress(SoundError):
        warnings.simplefilter("ignore", SilentSound)
        assert np.isfinite(read_sound(head + content, PLAIN)).all()


@given(places=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8), kind=st.integers(0, 15))
@settings(max_examples=100, deadline=None)
def test_flipped_bytes_are_a_fault_or_a_sound(places: list[tuple[int, int]], kind: int) -> None:
    content = bytearray(file(tone(seconds=0.2), kind=KINDS[kind][0], subtype=KINDS[kind][1]))
    for place, value in places:
        content[place % len(content)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SilentSound)
        try:
            found = read_sound(bytes(content), PLAIN)
        except SoundError:
            return
    assert np.isfinite(found).all()


def test_without_soundfile_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    content = file(tone())
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ConfigError, match=r'which is not installed: pip install "polymodal\[audio\]"'):
        read_sound(content, PLAIN)
