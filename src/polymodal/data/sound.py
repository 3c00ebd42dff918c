"""Sound reference -> mono float32 samples at one rate, the same way in training, evaluation and use.

Files are read by libsndfile (extra `audio`), in blocks, and never more of them than is wanted. What it mends in silence
is a fault here: a file that is shorter than its own header says is cut off.
"""

import io
import re
import warnings
from math import ceil, gcd
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from polymodal.data.decode import PictureError, describe, read_bytes, resolve
from polymodal.data.faults import CellError
from polymodal.errors import ConfigError
from polymodal.layers.log_mel import log_mel
from polymodal.preprocess import AudioPreprocess

EXTENSIONS = frozenset((".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf"))
MIN_RATE, MAX_RATE = 1000, 384_000  # samples a second of a file; outside of these its header is nonsense
MAX_CHANNELS = 32
MAX_VALUE = 2.0**31  # of a sample: floats in the scale of 32-bit integers are borne, 1 is the custom
SILENCE = 2.0**-12  # from the lowest to the highest sample, 8 steps of 16 bits: the dither of silence fills 4
BLOCK = 2**16  # frames that are decoded at a time

# libsndfile knows two dozen more formats, old ones of which nobody has looked after the readers.
_SIGNATURES = (b"RF64", b"fLaC", b"OggS", b"ID3", b".snd", b"caff")
_UNKNOWN_LENGTH = 2**62  # libsndfile gives the largest number there is where the header does not know
_NO_END = re.compile(r"lacks an end-of-stream bit|without an End-Of-Stream flag")
# Lines of libsndfile's log: the size of a chunk, as written and as found.
_SIZES = re.compile(r"^\s*(?:RIFF|FORM|SSND|data|riff size|data size)\s*: (\d+) \(should be (\d+)\)", re.I | re.M)
_STREAMED = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # sizes that recorders write which cannot go back to correct them
_SLACK = 8  # bytes: some writers count a chunk's own header or its padding


class SoundError(CellError):
    """A sound cannot be used."""


class SilentSound(UserWarning):
    """A sound can be read and there is nothing in it; it is used as it is."""


def read_sound(
    reference: str | bytes | Path, preprocess: AudioPreprocess, root: Path | None = None
) -> NDArray[np.float32]:
    """Mono samples, (N,) with 0 < N <= seconds x rate, mostly -1 to 1; the mean of the file's channels.

    Warns with `SilentSound` when there is nothing but silence in them.

    Args:
        reference: a path, a file's bytes, or `shard.tar#member`.
        root: folder that a relative path is relative to.

    Raises:
        SoundError: missing, empty, not a sound, cut off, without samples, with values that are no numbers, or with a
            rate or a number of channels that no recorder has; the message says which.
        ConfigError: soundfile is not installed.
    """
    name = describe(reference)
    with _open(reference, root) as stream:
        samples, rate = _read_mono(stream, name, preprocess.seconds)
    if not np.abs(samples).max() <= MAX_VALUE:  # "not": NaN compares to nothing
        reason = "has samples that are not finite, or far outside of -1 to 1"
        raise SoundError(name, "not-finite", reason, "convert it to 16-bit PCM, or leave it out")
    if is_silent(samples):
        warnings.warn(f"{name}: is silent; it is used as it is", SilentSound, stacklevel=2)
    return resample(samples, rate, preprocess.rate)[: preprocess.max_samples]


def steps(samples: NDArray[np.float32], preprocess: AudioPreprocess) -> NDArray[np.float32]:
    """What an encoder reads of a sound, (T, `preprocess.channels`).

    Source of the samples' scale: transformers `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm`.
    """
    if preprocess.features == "log_mel":
        return log_mel(samples, preprocess).numpy()
    scaled = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    return np.asarray(scaled, dtype=np.float32)[:, None]


def is_silent(samples: NDArray[np.float32]) -> bool:
    """Whether all samples lie within `SILENCE` of each other; a constant other than zero is silence too."""
    return bool(np.ptp(samples) < SILENCE)


def is_sound(head: bytes) -> bool:
    """Whether the first 12 bytes of a file are those of a sound format that is read here."""
    riff = head[:4] == b"RIFF" and head[8:12] == b"WAVE"
    aiff = head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC")
    mpeg = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2  # the 11 bits of a frame's start, layer III
    return head.startswith(_SIGNATURES) or riff or aiff or mpeg


def resample(samples: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    """The sound at another rate, by scipy's polyphase filter; (ceil(N wanted / rate),)."""
    if rate == wanted:
        return samples
    common = gcd(rate, wanted)
    resampled = resample_poly(samples, wanted // common, rate // common)
    return np.asarray(resampled, dtype=np.float32)


def _open(reference: str | bytes | Path, root: Path | None) -> BinaryIO:
    if isinstance(reference, bytes):
        return io.BytesIO(reference)
    if ".tar#" in str(reference):
        try:
            return io.BytesIO(read_bytes(reference, root))
        except PictureError as error:
            raise SoundError(reference, error.kind, error.reason, "correct the name, or fetch the archive") from None
    path = resolve(reference, root)
    try:
        if path.is_file():
            return path.open("rb")
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise SoundError(path, "unreadable", reason, "see to its permissions or path") from None
    reason = "is no file, wanted a sound" if path.exists() else "there is no such file"
    raise SoundError(path, "missing", reason, "correct the path, or give the folder of the sounds")


def _read_mono(stream: BinaryIO, name: str, seconds: float) -> tuple[NDArray[np.float32], int]:
    """The first seconds of a file at its own rate, and that rate."""
    soundfile = _soundfile()
    head = stream.read(12)
    if not head:
        raise SoundError(name, "empty-file", "is empty (0 bytes)", "fetch it again or leave it out")
    if not is_sound(head):
        reason = f"is not a sound (it begins with {head[:8]!r})"
        raise SoundError(name, "not-a-sound", reason, "convert it to WAV or FLAC, or give another column")
    stream.seek(0)
    try:
        with soundfile.SoundFile(stream) as file:
            _check_header(file, name)
            samples = _first(file, ceil(seconds * file.samplerate), name)
            _check_end(file, name)  # once more: of Ogg it is known only after the last page is read
            return samples, file.samplerate
    except soundfile.SoundFileError as error:
        what = str(error).rpartition(": ")[2].rstrip(".")
        raise SoundError(
            name, "unreadable", f"is damaged or cut off ({what})", "fetch it again or leave it out"
        ) from None


def _check_header(file: Any, name: str) -> None:
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        reason = f"has {file.samplerate} samples a second, wanted {MIN_RATE} to {MAX_RATE}"
        raise SoundError(name, "rate", reason, "its header is damaged, or it is no sound")
    if file.channels > MAX_CHANNELS:
        reason = f"has {file.channels} channels, wanted at most {MAX_CHANNELS}"
        raise SoundError(name, "channels", reason, "mix it down first")
    _check_end(file, name)
    if file.frames >= _UNKNOWN_LENGTH:
        reason = "does not say how long it is, as a stream that was never closed"
        raise SoundError(name, "no-length", reason, "convert it, for instance with ffmpeg")
    if file.frames == 0:
        raise SoundError(name, "no-samples", "has no samples (0 seconds)", "record it again or leave it out")


def _check_end(file: Any, name: str) -> None:
    """Raises: SoundError: libsndfile has noticed, and only noted in its log, that the file ends too early."""
    sizes = [(int(written), int(found)) for written, found in _SIZES.findall(file.extra_info)]
    if any(written > found + _SLACK for written, found in sizes if written not in _STREAMED):
        raise _truncated(name, "its header promises more than there is")
    if _NO_END.search(file.extra_info):
        raise _truncated(name, "its last page is missing")


def _first(file: Any, frames: int, name: str) -> NDArray[np.float32]:
    """The mean of the channels of at most `frames` frames."""
    wanted = min(frames, file.frames)
    mono = np.empty(wanted, np.float32)
    for start in range(0, wanted, BLOCK):
        expected = min(BLOCK, wanted - start)
        block = file.read(expected, dtype="float32", always_2d=True)
        mono[start : start + len(block)] = block.mean(axis=1)
        if len(block) < expected:
            raise _truncated(name, f"{start + len(block)} of {file.frames} samples can be read")
    return mono


def _truncated(name: str, why: str) -> SoundError:
    return SoundError(name, "truncated", f"is cut off ({why})", "fetch it again or leave it out")


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: the package is there, the library that it wraps is not
        raise ConfigError(
            'sounds are read by soundfile, which is not installed: pip install "polymodal[audio]"'
        ) from None
    return soundfile
