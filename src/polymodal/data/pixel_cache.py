"""Pictures decoded once into one memory-mapped file of uint8, when that is faster than decoding them every epoch.

The file holds what `augment.canvas` leaves of each picture. Its name is a hash of all that its content follows from
(references, sizes and times of change of the files, preprocessing), so that a stale one is never read. It is written
beside and renamed; a lock lets a second process wait for the first instead of decoding everything too.

Layout: pixels one picture after the other, then `places` (pictures, 4) of offset, height, width, channels, then
`entries` (rows,), the picture of each row, then their two lengths; all int64, little-endian.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from polymodal.data.augment import Augment
from polymodal.data.cache import cache_folder, free_bytes, written_beside
from polymodal.data.dataset import DecodedPictures, Pictures
from polymodal.data.manifest import Manifest
from polymodal.data.progress import map_in_threads, with_progress
from polymodal.errors import DataError
from polymodal.preprocess import ImagePreprocess

INT = np.dtype("<i8")
SAMPLE = 16  # pictures decoded to decide
READ_SECONDS = 20e-6  # to find a picture in the file; measured, see `worth_caching`
READ_RATE = 2e9  # bytes a second, from the page cache


class CachedPictures:
    """Pictures of a manifest's rows out of a cache file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map()

    def _map(self) -> None:
        self._bytes: NDArray[np.uint8] = np.memmap(self.path, np.uint8, mode="r")
        pictures, rows = self._bytes[-16:].view(INT).tolist()
        entries = len(self._bytes) - 16 - 8 * rows
        self._entries = self._bytes[entries:-16].view(INT)
        self._places = self._bytes[entries - 32 * pictures : entries].view(INT).reshape(pictures, 4)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}  # another process maps the file itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._map()

    def picture(self, row: int) -> Image.Image:
        offset, height, width, channels = self._places[self._entries[row]].tolist()
        content = self._bytes[offset : offset + height * width * channels].tobytes()
        return Image.frombytes("RGBA" if channels == 4 else "RGB", (width, height), content)


def pictures_for(
    manifest: Manifest,
    preprocess: ImagePreprocess,
    augment: Augment | None,
    *,
    cache: Literal["auto", "always", "never"] = "auto",
    epochs: int = 2,
    progress: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Pictures:
    """Where a run's pictures come from: the cache file if that is faster and there is room, else their own files.

    Args:
        epochs: how often each picture will be asked for; once is never worth a cache.
        say: gets one line about what was decided and why.

    Raises:
        DataError: a picture cannot be read (the message names its row), or the cache cannot be written.
    """
    decoded = DecodedPictures(manifest, preprocess, augment)
    if cache == "never":
        return decoded
    shown, states = _identify(manifest)
    path = cache_folder() / "pictures" / f"{_fingerprint(states, preprocess, augment)}.u8"
    if not path.exists():
        if cache == "auto":
            yes, why = worth_caching(decoded, len(np.unique(shown)), epochs, free_bytes(path))
            say(f"pictures are {'decoded once into ' + str(path) if yes else 'decoded every epoch'}: {why}")
            if not yes:
                return decoded
        with _locked(path):
            if not path.exists():
                _build(decoded, shown, path, progress)
    else:
        say(f"pictures come decoded from {path}")
    return CachedPictures(path)


def worth_caching(decoded: DecodedPictures, count: int, epochs: int, free: int) -> tuple[bool, str]:
    """Whether to cache `count` different pictures, and why, after decoding a few of them.

    Decoding all once and reading them every epoch must take less than two thirds of the time of decoding them every
    epoch, and half of the free disk must stay free.
    """
    rows = np.unique(np.linspace(0, len(decoded.manifest) - 1, SAMPLE).astype(int)).tolist()
    decoded.picture(rows[0])  # the first loads Pillow's plugins
    start = time.perf_counter()
    sizes = [image.width * image.height * len(image.getbands()) for image in map(decoded.picture, rows)]
    decoding = (time.perf_counter() - start) / len(rows)
    needed = round(sum(sizes) / len(sizes) * count)
    reading = READ_SECONDS + needed / count / READ_RATE
    costs = f"decoding takes {decoding * 1e3:.2f} ms a picture, reading about {reading * 1e3:.2f} ms"
    room = f"{needed / 2**20:,.0f} MiB are needed, {free / 2**20:,.0f} MiB are free"
    if needed > free / 2:
        return False, f"{room}; set POLYMODAL_CACHE to a larger disk"
    if decoding + epochs * reading > 2 / 3 * epochs * decoding:
        return False, f"{costs}, over {epochs} epochs"
    return True, f"{costs}; {room}"


def _build(decoded: DecodedPictures, shown: NDArray[np.uint64], path: Path, progress: bool) -> None:
    for left_over in path.parent.glob(f"{path.name}.*.part"):
        left_over.unlink(missing_ok=True)  # of a process that was killed; we hold the lock
    _, first_rows, entries = np.unique(shown, return_index=True, return_inverse=True)
    order = np.argsort(first_rows)  # pictures in the order of the rows
    pictures = map_in_threads(decoded.picture, first_rows[order].tolist(), os.cpu_count() or 1)
    with written_beside(path) as part, part.open("wb") as file:
        places = np.zeros((len(order), 4), INT)
        for entry, image in enumerate(with_progress(pictures, "decoding pictures", len(order), progress)):
            places[entry] = file.tell(), image.height, image.width, len(image.getbands())
            file.write(image.tobytes())
        file.write(bytes(-file.tell() % 8))
        file.write(places.tobytes())
        file.write(np.argsort(order)[entries].astype(INT).tobytes())
        file.write(np.array([len(order), len(shown)], INT).tobytes())


def _identify(manifest: Manifest) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Of every row a hash of which picture it shows, and one of that picture's state on disk."""
    pictures, states = np.zeros((2, len(manifest)), np.uint64)
    stamps: dict[str, str] = {}  # of archives, which hold thousands of pictures each
    for row in range(len(manifest)):
        key, reference = manifest.image_key(row), manifest.image_reference(row)
        archive, is_member, _ = reference.partition(".tar#") if isinstance(reference, str) else ("", "", "")
        if is_member:
            stamp = stamps.setdefault(archive, _stamp(manifest.root / f"{archive}.tar"))
        else:
            stamp = _stamp(manifest.root / reference) if isinstance(reference, str) and len(reference) < 1000 else ""
        pictures[row], states[row] = _hash(key), _hash(f"{key}\0{stamp}")
    return pictures, states


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _fingerprint(states: NDArray[np.uint64], preprocess: ImagePreprocess, augment: Augment | None) -> str:
    """A name for these pictures as they are on disk now, preprocessed in this way."""
    settings: dict[str, Any] = preprocess.model_dump(include={"size", "fit", "interpolation", "background", "decoding"})
    if augment is not None:  # what `augment.canvas` looks at
        settings |= {"scale": augment.image.scale[0], "transparent": augment.image.background > 0}
    return hashlib.blake2b(states.tobytes() + repr((1, settings)).encode(), digest_size=16).hexdigest()


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""  # reading it will say what is wrong
    return f"{status.st_size} {status.st_mtime_ns}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the path's lock, which the system gives back if this process is killed."""
    try:
        import fcntl
    except ImportError:  # Windows: two processes may both do the work, and one file stays
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be written to ({error.strerror}); set POLYMODAL_CACHE") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
