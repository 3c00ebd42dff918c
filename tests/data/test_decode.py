import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from polymodal.data.augment import ImageAugment, canvas
from polymodal.data.decode import MAX_PIXELS, flatten, open_image, to_pixels, upright
from polymodal.errors import DataError
from polymodal.preprocess import ImagePreprocess
from tests.data.files import bomb, noise, picture_bytes, write_picture, write_text

sizes = st.integers(1, 90)


@given(width=sizes, height=sizes, seed=st.integers(0, 9), size=st.sampled_from([7, 16, 33]))
@settings(max_examples=40, deadline=None)
def test_crop_equals_clip_and_squash_equals_siglip_of_transformers(
    width: int, height: int, seed: int, size: int
) -> None:
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

    image = noise(seed, width, height)
    raw: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    clip = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **raw)
    ours = to_pixels(image, ImagePreprocess(size=size))
    np.testing.assert_array_equal(ours.numpy(), clip(image)["pixel_values"][0])
    siglip = SiglipImageProcessorPil(size={"height": size, "width": size}, resample=Image.Resampling.BICUBIC, **raw)
    ours = to_pixels(image, ImagePreprocess(size=size, fit="squash"))
    np.testing.assert_array_equal(ours.numpy(), siglip(image)["pixel_values"][0])


def test_pixels_are_uint8_channels_first() -> None:
    pixels = to_pixels(Image.new("RGB", (30, 20), (10, 20, 30)), ImagePreprocess(size=8))
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (3, 8, 8))
    assert pixels[:, 3, 3].tolist() == [10, 20, 30]


def test_a_long_strip_does_not_fill_memory() -> None:
    strip = Image.new("RGB", (60_000, 1), (9, 9, 9))
    strip.paste((200, 0, 0), (29_990, 0, 30_010, 1))
    pixels = to_pixels(strip, ImagePreprocess(size=224))  # all of it at 224 high would be 9 GB
    assert pixels[:, 0, 112].tolist() == [200, 0, 0]
    assert canvas(strip, ImagePreprocess(size=224), ImageAugment()).size == (2, 1)


def test_exif_orientation_is_obeyed() -> None:
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    seen = open_image(buffer.getvalue())
    assert seen.size == (2, 4)
    assert seen.getpixel((1, 0)) == (255, 0, 0)


def test_transparency_shows_the_background() -> None:
    image = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 255, 255))
    image.putpixel((1, 0), (0, 0, 0, 51))  # a fifth
    flat = flatten(image, (250, 100, 0))
    assert [flat.getpixel((0, 0)), flat.getpixel((1, 0)), flat.getpixel((1, 1))] == [
        (0, 0, 255), (200, 80, 0), (250, 100, 0),
    ]  # fmt: skip


def test_palette_with_a_transparent_entry() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.info["transparency"] = 0
    assert flatten(image, (1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)
    assert flatten(image, (1, 2, 3)).getpixel((1, 0)) == (0, 255, 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257, 65535]], np.uint16), [0, 1, 255]),
        (np.array([[0, 25700, 65535]], np.int32), [0, 100, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 7, 300]], np.float32), [0, 7, 255]),
    ],
)
def test_deep_pictures_are_scaled_not_cut(values: NDArray[Any], expected: list[int]) -> None:
    image = upright(Image.fromarray(values))
    assert np.array(image)[0].tolist() == [[level] * 3 for level in expected]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (3, 3), (200, 200, 200)).convert(mode if mode != "LAB" else "RGB")
    if mode == "LAB":
        image = Image.new("LAB", (3, 3))
    assert flatten(image, (0, 0, 0)).mode == "RGB"


def test_references_of_every_kind_show_the_same(tmp_path: Path) -> None:
    content = picture_bytes(3)
    write_picture(tmp_path / "图 1.png", 3)
    text = base64.b64encode(content).decode()
    for reference in ("图 1.png", content, Path("图 1.png"), text, f"data:image/png;base64,{text}"):
        assert open_image(reference, tmp_path).tobytes() == noise(3).tobytes()


def test_windows_separators_are_understood(tmp_path: Path) -> None:
    write_picture(tmp_path / "a/b.png", 1)
    assert open_image("a\\b.png", tmp_path).tobytes() == noise(1).tobytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"x\.png: is empty \(0 bytes\)"),
        (b"<!DOCTYPE html><html>404", r"x\.png: is not a picture \(it looks like a web page\)"),
        (b"RIFF\xe0\x06\x00\x00WEBPVP8 \xd4\x06", r"x\.png: is cut off; fetch it again"),
        (b"\x89PNG\r\n\x1a\n nothing", r"x\.png: is damaged or cut off \(it begins as a picture"),
        (b"\x00\x01\x02 nothing", r"x\.png: is not a picture \(it begins with b'"),
        (picture_bytes(0, "JPEG", 200, 200)[:-800], r"x\.png: is damaged or cut off \(.*truncated"),
        (picture_bytes(0, "PNG", 200, 200)[:-800], r"x\.png: is damaged or cut off"),
        (bomb(), r"x\.png: has too many pixels"),
    ],
)
def test_a_picture_that_cannot_be_used_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_image("x.png", tmp_path)


def test_more_pixels_than_allowed_but_fewer_than_pillows_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymodal.data.decode.MAX_PIXELS", 100)
    with pytest.raises(DataError, match=r"bytes: has too many pixels \(24 x 16, at most 100\); scale it down first"):
        open_image(picture_bytes())
    assert MAX_PIXELS > 10**7


def test_missing_files_folders_and_bad_paths(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: there is no such file; correct the path, or give the folder"):
        open_image("gone.png", tmp_path)
    (tmp_path / "d.png").mkdir()
    with pytest.raises(DataError, match=r"d\.png: is a folder, wanted a picture"):
        open_image("d.png", tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        open_image("a\0b.png", tmp_path)
    with pytest.raises(DataError, match=r"shard\.tar: there is no such file"):
        open_image("shard.tar#a.png", tmp_path)
    write_text(tmp_path / "bad.tar", "no tar")
    with pytest.raises(DataError, match=r"bad\.tar: is not a readable tar archive"):
        open_image("bad.tar#a.png", tmp_path)


def test_a_base64_cell_that_was_cut_off() -> None:
    text = base64.b64encode(picture_bytes()).decode()
    with pytest.raises(DataError, match=r"data URI: is not whole base64 \(.*\); the cell may have been cut off"):
        open_image(f"data:image/png;base64,{text[:-3]}")


def test_postscript_is_never_run(tmp_path: Path) -> None:
    write_text(tmp_path / "x.png", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(DataError, match="it looks like PostScript"):
        open_image("x.png", tmp_path)


@given(content=st.binary(max_size=300), cut=st.integers(0, 300), seed=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_a_picture_or_a_data_error(content: bytes, cut: int, seed: int) -> None:
    spoiled = picture_bytes(seed)[:cut] + content
    try:
        assert open_image(spoiled).mode in ("RGB", "RGBA")
    except DataError as error:
        assert str(error).startswith("bytes: ")  # noqa: PT017


def test_a_member_beyond_the_end_of_its_archive(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match=r"x\.tar#a\.png: the archive is cut off; fetch it again"):
        open_image("x.tar#a.png@512+4000", tmp_path)
