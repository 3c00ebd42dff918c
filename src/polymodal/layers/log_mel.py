"""Samples of a sound -> log-mel frames, as Whisper reads them.

Sources: Radford et al. 2022, arXiv:2212.04356, section 2.2; openai/whisper whisper/audio.py `log_mel_spectrogram`. The
filters are those of Slaney's Auditory Toolbox (1998), which librosa's `filters.mel` has made the custom.
Shapes: N samples; T frames; M bands (mels); F = window / 2 + 1 frequencies, 40 Hz apart.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from polymodal.errors import ConfigError
from polymodal.preprocess import AudioPreprocess

# Slaney's scale: linear below 1000 Hz, 200 / 3 Hz a mel; above, 27 mels to a factor of 6.4.
LINEAR_HZ, BREAK_HZ, BREAK_MEL = 200 / 3, 1000.0, 15.0
LOG_STEP = np.log(6.4) / 27
FLOOR = 1e-10  # smallest power whose logarithm is taken
RANGE = 8.0  # powers of ten below the clip's loudest value that are kept: 80 dB


def log_mel(samples: NDArray[np.float32] | Tensor, preprocess: AudioPreprocess) -> Tensor:
    """Frames of sounds, (..., T, M) float32 of (..., N) samples; about -1.5 to 1.5.

    A frame looks at 25 ms and stands 10 ms after the one before: T = N // hop. With `pad_to_max` silence is added up to
    `seconds`, as Whisper was trained (30 s: 3000 frames). Whatever is longer than `seconds` is cut; a sound shorter
    than a frame's window is taken as if silence filled it up.

    The range is counted from the loudest value of the whole clip, so frames of a part of a sound are not the same part
    of the sound's frames, and silence added at the end changes none of the others beyond the last window.

    Args:
        samples: mono, at `preprocess.rate`; a few sounds of one length may stand in front.
    """
    sound = torch.as_tensor(samples, dtype=torch.float32)[..., : preprocess.max_samples]
    wanted = max(preprocess.window, preprocess.max_samples if preprocess.pad_to_max else 0)
    sound = pad(sound, (0, max(0, wanted - sound.shape[-1])))
    window = torch.hann_window(preprocess.window, device=sound.device)
    # torch centers its frames on multiples of the hop and mirrors the sound at both ends.
    spectrum = torch.stft(sound, preprocess.window, preprocess.hop, window=window, return_complex=True)
    spectrum = spectrum[..., :-1].transpose(-2, -1)  # (..., T, F): Whisper drops the last frame
    power = spectrum.real.square() + spectrum.imag.square()
    mels = power @ mel_filters(preprocess.rate, preprocess.window, preprocess.mels).T.to(sound.device)
    log = mels.clamp(min=FLOOR).log10()
    log = torch.maximum(log, log.amax(dim=(-2, -1), keepdim=True) - RANGE)
    return (log + 4) / 4


@lru_cache(maxsize=8)
def mel_filters(rate: int, window: int, mels: int) -> Tensor:
    """(M, F) float32: triangles between 0 Hz and rate / 2, equally wide in mels, each of area 1 over hertz.

    Raises:
        ConfigError: there are so many bands that one falls between two frequencies.
    """
    edges = mel_to_hertz(np.linspace(0, hertz_to_mel(rate / 2), mels + 2))
    low, center, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    frequencies = np.linspace(0, rate / 2, window // 2 + 1)
    rising, falling = (frequencies - low) / (center - low), (high - frequencies) / (high - center)
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    if empty := int((filters.max(axis=1) == 0).sum()):
        raise ConfigError(
            f"preprocess.mels: {empty} of {mels} bands hold no frequency at {rate} samples a second; take fewer, as 80"
        )
    return torch.from_numpy(filters.astype(np.float32))


def hertz_to_mel(hertz: float) -> float:
    if hertz < BREAK_HZ:
        return hertz / LINEAR_HZ
    return float(BREAK_MEL + np.log(hertz / BREAK_HZ) / LOG_STEP)


def mel_to_hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mels < BREAK_MEL, mels * LINEAR_HZ, BREAK_HZ * np.exp((mels - BREAK_MEL) * LOG_STEP))
