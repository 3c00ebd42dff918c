import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from polymodal.data import Manifest, read
from polymodal.data.augment import Augment, ImageAugment
from polymodal.data.dataset import DecodedPictures
from polymodal.data.pixel_cache import CachedPictures, pictures_for, worth_caching
from polymodal.errors import DataError
from polymodal.preprocess import ImagePreprocess
from tests.data.files import picture_bytes, write_picture, write_text

PREPROCESS = ImagePreprocess(size=10)
AUGMENT = Augment(image=ImageAugment(scale=(0.5, 1)))


def make(folder: Path, count: int = 6) -> Manifest:
    for i in range(count):
        write_picture(folder / f"{i}.png", i)
    rows = "".join(f"{i % count}.png,caption {i}\n" for i in range(2 * count))
    return read(write_text(folder / "t.csv", "image,caption\n" + rows))


@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_cached_pictures_are_the_decoded_ones(tmp_path: Path, cache: Path, augment: Augment | None) -> None:
    manifest = make(tmp_path)
    cached = pictures_for(manifest, PREPROCESS, augment, cache="always")
    decoded = DecodedPictures(manifest, PREPROCESS, augment)
    again = pickle.loads(pickle.dumps(cached))
    for row in range(len(manifest)):
        for one in (cached, again):
            assert one.picture(row).size == decoded.picture(row).size
            assert one.picture(row).tobytes() == decoded.picture(row).tobytes()
    [file] = cache.glob("pictures/*.u8")
    pixels = sum(len(decoded.picture(row).tobytes()) for row in range(6))
    assert file.stat().st_size < pixels + 8 * 12 + 32 * 6 + 32, "a picture of several rows is there once"


def test_transparency_is_kept_where_the_background_varies(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture_bytes())
    from PIL import Image

    Image.new("RGBA", (20, 20), (1, 2, 3, 0)).save(tmp_path / "b.png")
    manifest = read(write_text(tmp_path / "t.csv", "image,caption\na.png,x\nb.png,y\n"))
    cached = pictures_for(manifest, PREPROCESS, Augment(image=ImageAugment(background=0.5)), cache="always")
    assert [cached.picture(row).mode for row in range(2)] == ["RGB", "RGBA"]


def test_a_changed_file_or_setting_makes_another_cache(tmp_path: Path, cache: Path) -> None:
    manifest = make(tmp_path)
    said: list[str] = []
    pictures_for(manifest, PREPROCESS, None, cache="always", say=said.append)
    pictures_for(manifest, PREPROCESS, None, cache="always", say=said.append)
    assert len(said) == 1
    assert said[0].startswith("pictures come decoded from ")
    pictures_for(manifest, PREPROCESS, AUGMENT, cache="always")
    pictures_for(manifest, ImagePreprocess(size=11), None, cache="always")
    assert len(list(cache.glob("pictures/*.u8"))) == 3
    (tmp_path / "3.png").write_bytes(picture_bytes(99, width=30))
    fresh = pictures_for(manifest, PREPROCESS, None, cache="always")
    assert fresh.picture(3).tobytes() == DecodedPictures(manifest, PREPROCESS, None).picture(3).tobytes()


def test_never_and_too_little_disk_decode(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    assert isinstance(pictures_for(manifest, PREPROCESS, None, cache="never"), DecodedPictures)
    decoded = DecodedPictures(manifest, PREPROCESS, None)
    yes, why = worth_caching(decoded, count=6, epochs=100, free=1000)
    assert not yes
    assert "0 MiB are needed, 0 MiB are free; set POLYMODAL_CACHE to a larger disk" in why
    yes, why = worth_caching(decoded, count=6, epochs=1, free=10**9)
    assert not yes, "one epoch is never worth a cache"
    assert "over 1 epochs" in why


def test_a_row_that_cannot_be_read_stops_the_making_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    manifest = make(tmp_path)
    (tmp_path / "4.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"t\.csv: row 5, image: 4\.png: is empty"):
        pictures_for(manifest, PREPROCESS, None, cache="always")
    assert not [path for path in cache.glob("pictures/*") if path.suffix != ".lock"]


def _build(table: str) -> int:
    pictures = pictures_for(read(table), PREPROCESS, None, cache="always", progress=False)
    assert isinstance(pictures, CachedPictures)
    return pictures.path.stat().st_ino


@pytest.mark.slow
def test_two_processes_at_once_make_one_cache(tmp_path: Path) -> None:
    make(tmp_path, 40)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        files = pool.map(_build, [str(tmp_path / "t.csv")] * 2)
    assert files[0] == files[1]


KILLED = """
import os, signal, sys
from polymodal.data import pixel_cache, read
from polymodal.preprocess import ImagePreprocess
shown = pixel_cache.with_progress
def killer(items, *rest):
    for place, item in enumerate(shown(items, *rest)):
        if place == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item
pixel_cache.with_progress = killer
pixel_cache.pictures_for(read(sys.argv[1]), ImagePreprocess(size=10), None, cache="always")
"""


def test_a_kill_leaves_no_half_cache_and_the_next_run_clears_up(tmp_path: Path, cache: Path) -> None:
    manifest = make(tmp_path)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "t.csv")], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert not list(cache.glob("pictures/*.u8"))
    assert list(cache.glob("pictures/*.part"))
    assert pictures_for(manifest, PREPROCESS, None, cache="always").picture(5).size == (10, 10)
    assert not list(cache.glob("pictures/*.part"))
