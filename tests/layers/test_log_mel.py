"""The front end against a plain sum over samples, known answers, and transformers' WhisperFeatureExtractor."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from polymodal.errors import ConfigError
from polymodal.layers.log_mel import hertz_to_mel, log_mel, mel_filters, mel_to_hertz
from polymodal.preprocess import AudioPreprocess
from tests.parity.reference import TOLERANCE, largest, transformers

OWN = AudioPreprocess()
PADDED = AudioPreprocess(pad_to_max=True)


def tone(hertz: float = 440.0, seconds: float = 1.0) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(16000 * seconds)) / 16000)).astype(np.float32)


def noise(seed: int, count: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=0.1, size=count).astype(np.float32)


def theirs(samples: NDArray[np.float32], padding: str, mels: int = 80) -> torch.Tensor:
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels)
    found = extractor(samples, sampling_rate=16000, return_tensors="pt", padding=padding)
    features: torch.Tensor = found.input_features[0].T
    return features


def test_known_answers_of_a_tone() -> None:
    """Computed once with transformers' WhisperFeatureExtractor."""
    frames = log_mel(tone(), PADDED)
    assert frames.shape == (3000, 80)
    assert frames.dtype == torch.float32
    assert frames.max().item() == pytest.approx(1.43820, abs=1e-5)
    assert frames.min().item() == pytest.approx(-0.56180, abs=1e-5)
    assert frames.mean().item() == pytest.approx(-0.557662, abs=1e-5)
    assert frames[50].argmax() == 11
    expected = [-0.56180, 1.15939, 1.34874, 1.43820, 1.29352, -0.56180]
    assert frames[50, 8:14].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("padding", ["max_length", "do_not_pad"])
@pytest.mark.parametrize("count", [16000, 12345, 401, 480000])
def test_it_is_whispers(count: int, padding: str, mels: int) -> None:
    preprocess = AudioPreprocess(pad_to_max=padding == "max_length", mels=mels)
    samples = noise(count, count) * np.linspace(0, 1, count, dtype=np.float32)
    assert largest(log_mel(samples, preprocess), theirs(samples, padding, mels)) <= TOLERANCE


def test_it_is_whispers_on_chords_that_begin_and_end() -> None:
    chord = tone(220, 2) + 0.3 * tone(523.25, 2) * np.hanning(32000) + 0.01 * noise(1, 32000)
    samples = np.concatenate([np.zeros(4000), chord, np.zeros(3000)]).astype(np.float32)
    assert largest(log_mel(samples, OWN), theirs(samples, "do_not_pad")) <= TOLERANCE


def test_a_frame_is_the_formula_written_out() -> None:
    """Hann window of 400, squared magnitudes, triangles, log10, floor, (x + 4) / 4, in plain floats."""
    samples = noise(3, 1600)
    frames = log_mel(samples, OWN)
    filters = mel_filters(16000, 400, 80).tolist()

    def loudness(frame: int, band: int) -> float:
        start, total = 160 * frame - 200, 0.0  # frame 5 lies inside of the sound, where nothing is mirrored
        for place, weight in enumerate(filters[band]):
            if weight:
                parts = [samples[start + n].item() * (0.5 - 0.5 * math.cos(2 * math.pi * n / 400)) for n in range(400)]
                real = sum(part * math.cos(2 * math.pi * place * n / 400) for n, part in enumerate(parts))
                imaginary = sum(part * math.sin(2 * math.pi * place * n / 400) for n, part in enumerate(parts))
                total += weight * (real**2 + imaginary**2)
        return (math.log10(max(total, 1e-10)) + 4) / 4

    for band in (0, 17, 79):
        assert frames[5, band].item() == pytest.approx(loudness(5, band), abs=1e-5)


def test_silence_is_the_floor() -> None:
    assert torch.equal(log_mel(np.zeros(16000, np.float32), OWN), torch.full((100, 80), -1.5))


@pytest.mark.parametrize(
    ("count", "frames"), [(0, 2), (1, 2), (399, 2), (400, 2), (480, 3), (16000, 100), (16159, 100)]
)
def test_ten_milliseconds_make_a_frame(count: int, frames: int) -> None:
    found = log_mel(noise(1, count), OWN)
    assert found.shape == (frames, 80)
    assert found.isfinite().all()


def test_a_sound_shorter_than_a_window_is_filled_up_with_silence() -> None:
    short = noise(1, 123)
    assert torch.equal(log_mel(short, OWN), log_mel(np.pad(short, (0, 277)), OWN))


def test_what_is_longer_than_the_limit_is_cut() -> None:
    samples = noise(1, 16000)
    half = AudioPreprocess(seconds=0.5)
    assert torch.equal(log_mel(samples, half), log_mel(samples[:8000], half))


def test_a_batch_gives_what_each_gives_alone() -> None:
    batch = np.stack([noise(seed, 8000) * 3e-4**seed for seed in range(2)])  # each has its own loudest value
    found = log_mel(batch, OWN)
    assert found.shape == (2, 50, 80)
    for row in range(2):
        torch.testing.assert_close(found[row], log_mel(batch[row], OWN), atol=1e-6, rtol=0)


def test_the_range_is_counted_from_the_loudest_value_of_the_clip() -> None:
    quiet = 5e-4 * noise(1, 16000)
    alone, beside = log_mel(quiet, OWN), log_mel(np.concatenate([quiet, tone()]), OWN)
    assert beside[:90].unique().numel() == 1  # drowned: more than 80 dB below the tone
    assert alone[:90].unique().numel() > 1000


def test_frames_of_other_rates_lie_as_close() -> None:
    """A tone below 4000 Hz is at the same place of the scale whatever the rate is, and 100 frames are a second."""
    slow = AudioPreprocess(rate=8000, mels=60)
    found = log_mel(tone(440)[::2].copy(), slow)
    assert found.shape == (100, 60)
    centers = mel_to_hertz(np.linspace(0, hertz_to_mel(4000), 62))[1:-1]
    assert abs(centers[int(found[50].argmax())] - 440) < 40


def test_filters_are_those_of_transformers() -> None:
    for mels in (80, 128):
        expected = transformers.WhisperFeatureExtractor(feature_size=mels).mel_filters.T
        assert np.abs(mel_filters(16000, 400, mels).numpy() - expected).max() < 1e-8


@pytest.mark.parametrize(("hertz", "mel"), [(0, 0), (100, 1.5), (1000, 15), (6400, 42), (8000, 45.245640)])
def test_slaneys_scale(hertz: float, mel: float) -> None:
    assert hertz_to_mel(hertz) == pytest.approx(mel, abs=1e-6)
    assert mel_to_hertz(np.array([hertz_to_mel(hertz)])).item() == pytest.approx(hertz, abs=1e-9)


def test_bands_between_two_frequencies_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"preprocess\.mels: \d+ of 200 bands hold no frequency at 16000"):
        mel_filters(16000, 400, 200)
