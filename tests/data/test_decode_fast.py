"""Both ways of decoding, on every kind of file, against Pillow used by hand."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from polymodal.data import fast
from polymodal.data.augment import ImageAugment, canvas, decoded_side
from polymodal.data.decode import as_tensor, open_header, open_image, read_pixels, to_array
from polymodal.errors import DataError
from polymodal.preprocess import Decoding, ImagePreprocess
from tests.data.files import noise, picture_bytes

both = pytest.mark.parametrize("decoding", get_args(Decoding))
sides = st.integers(1, 300) | st.integers(1, 40).map(lambda eighths: 8 * eighths)
SIZE = 32
LARGE = (320, 256)  # decoded at a quarter for SIZE
TURNS = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_90),
}  # what makes the picture upright, by EXIF's orientation


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 92, **options})
    return buffer.getvalue()


def expected(image: Image.Image, size: int = SIZE) -> NDArray[np.uint8]:
    """(size, size, 3): shorter side to `size` by Pillow's bicubic, then the middle."""
    width, height = image.size
    wanted = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    scaled = image.resize(wanted, Image.Resampling.BICUBIC)
    left, top = (wanted[0] - size) // 2, (wanted[1] - size) // 2
    return np.asarray(scaled.crop((left, top, left + size, top + size)))


def difference(pixels: NDArray[np.uint8], image: Image.Image) -> float:
    """Mean absolute difference of (3, S, S) from what Pillow makes of the opened picture, in grey levels."""
    wanted = expected(image, pixels.shape[1]).transpose(2, 0, 1)
    return float(np.abs(pixels.astype(int) - wanted).mean())


def decoded(content: bytes, decoding: Decoding, size: int = SIZE) -> NDArray[np.uint8]:
    return read_pixels(content, None, ImagePreprocess(size=size, decoding=decoding))


def most(decoding: Decoding) -> float:
    """Grey levels that a picture may differ on the mean."""
    return 0.0 if decoding == "exact" else 1.0


# ---------------------------------------------------------------------------------------------------------------------
# Formats


@both
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG", "PPM"])
def test_every_format_is_what_pillow_makes_of_it(kind: str, decoding: Decoding) -> None:
    content = picture_bytes(1, kind, *LARGE)
    image = Image.open(io.BytesIO(content)).convert("RGB")
    assert difference(decoded(content, decoding), image) <= most(decoding)


@both
def test_of_an_animation_the_first_frame_is_seen(decoding: Decoding) -> None:
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue", "green")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert decoded(buffer.getvalue(), decoding)[:, 5, 5].tolist() == [255, 0, 0]


@both
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg(subsampling: str, progressive: bool, decoding: Decoding) -> None:
    content = jpeg(noise(2, *LARGE), subsampling=subsampling, progressive=progressive)
    assert difference(decoded(content, decoding), Image.open(io.BytesIO(content))) <= most(decoding)


@both
def test_a_gray_jpeg_is_three_equal_planes(decoding: Decoding) -> None:
    content = jpeg(noise(2, *LARGE).convert("L"))
    pixels = decoded(content, decoding)
    assert (pixels == pixels[:1]).all()
    assert difference(pixels, Image.open(io.BytesIO(content)).convert("RGB")) <= most(decoding)


@both
@pytest.mark.parametrize("adobe", [True, False])
def test_a_cmyk_jpeg_is_not_a_negative(adobe: bool, decoding: Decoding) -> None:
    content = jpeg(Image.new("RGB", LARGE, (200, 60, 20)).convert("CMYK"))  # as Adobe's programs write it: inverted
    if not adobe:  # without the marker that says so
        start = content.index(b"\xff\xee")
        content = content[:start] + content[start + 2 + int.from_bytes(content[start + 2 : start + 4], "big") :]
    seen = decoded(content, decoding)[:, 3, 3].astype(int)
    assert np.abs(seen - [200, 60, 20]).max() <= 3
    assert difference(decoded(content, decoding), Image.open(io.BytesIO(content)).convert("RGB")) == 0


@both
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [LARGE, (30, 45)])
def test_all_orientations_of_exif(orientation: int, size: tuple[int, int], decoding: Decoding) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = jpeg(noise(3, *size), exif=exif)
    upright = TURNS[orientation](Image.open(io.BytesIO(content)))
    assert open_image(content, None, SIZE if decoding == "fast" else None).size == (
        upright.size if decoding == "exact" or size != LARGE else (upright.width // 4, upright.height // 4)
    )
    assert difference(decoded(content, decoding), upright) <= most(decoding)


@both
@pytest.mark.parametrize(
    ("mode", "dtype", "scale"), [("I;16", np.uint16, 257), ("L", np.uint8, 1)], ids=["16 bits", "8 bits"]
)
def test_deep_and_shallow_gray_pngs_agree(mode: str, dtype: Any, scale: int, decoding: Decoding) -> None:
    levels = np.asarray(noise(4, 64, 64).convert("L"))
    buffer = io.BytesIO()
    Image.fromarray((levels.astype(dtype) * scale).astype(dtype)).save(buffer, "PNG")
    assert Image.open(io.BytesIO(buffer.getvalue())).mode == mode
    assert difference(decoded(buffer.getvalue(), decoding), Image.fromarray(levels).convert("RGB")) <= most(decoding)


@both
def test_palette_and_alpha_lie_on_the_background(decoding: Decoding) -> None:
    shown = noise(5, 80, 64)
    for image in (shown.quantize(32), shown.convert("RGBA"), shown.convert("LA")):
        if image.mode != "P":
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        opened = Image.open(io.BytesIO(buffer.getvalue())).convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", opened.size, "white"), opened).convert("RGB")
        assert difference(decoded(buffer.getvalue(), decoding), flat) <= most(decoding)


# ---------------------------------------------------------------------------------------------------------------------
# How the fast way goes, and when it does not


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((640, 480), 1),  # a half would leave 240 pixels for 224
        ((896, 896), 2),
        ((4000, 3000), 4),
        ((8000, 6000), 8),
        ((1801, 1200), 1),  # of its halves the last column would stand for half a pixel
        ((1802, 1200), 2),
        ((50, 40), 1),
    ],
)
def test_twice_the_pixels_that_are_seen_are_decoded(size: tuple[int, int], scale: int) -> None:
    content = jpeg(Image.new("RGB", size, "red"))
    assert open_image(content, None, 224).size == (size[0] // scale, size[1] // scale)


@given(
    width=sides,
    height=sides,
    size=st.integers(1, 40),
    fit=st.sampled_from(["crop", "squash"]),
    seed=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_the_engine_and_training_see_the_same(width: int, height: int, size: int, fit: Any, seed: int) -> None:
    content = jpeg(noise(seed, width, height))
    for decoding in get_args(Decoding):
        preprocess = ImagePreprocess(size=size, fit=fit, decoding=decoding)
        pixels = read_pixels(content, None, preprocess)
        assert pixels.shape == (3, size, size)
        assert pixels.flags.c_contiguous
        image = open_image(content, None, decoded_side(preprocess, None))
        np.testing.assert_array_equal(pixels, to_array(image, preprocess))
        np.testing.assert_array_equal(pixels, as_tensor(canvas(image, preprocess, None)).numpy())


def test_a_canvas_for_augmentation_is_near_the_exact_one() -> None:
    content, augment = jpeg(noise(6, 640, 512)), ImageAugment(scale=(0.5, 1.0))
    kept = {}
    for decoding in get_args(Decoding):
        preprocess = ImagePreprocess(size=48, decoding=decoding)
        side = decoded_side(preprocess, augment)
        assert side == (None if decoding == "exact" else 68)
        kept[decoding] = np.asarray(canvas(open_image(content, None, side), preprocess, augment), int)
    assert kept["exact"].shape == kept["fast"].shape == (68, 85, 3)
    assert np.abs(kept["exact"] - kept["fast"]).mean() < 1


def test_a_long_strip_does_not_fill_memory() -> None:
    content = jpeg(Image.new("RGB", (60_000, 2), (200, 0, 0)))
    assert np.abs(decoded(content, "fast", 224)[:, 0, 112].astype(int) - [200, 0, 0]).max() <= 2


@both
def test_what_is_cut_off_says_so(decoding: Decoding) -> None:
    content = jpeg(noise(7, *LARGE))
    with pytest.raises(DataError, match=r"bytes: is damaged or cut off \(.*truncated.*\); fetch it again"):
        decoded(content[: len(content) // 2], decoding)


def test_a_blemish_that_pillow_bears_is_borne() -> None:
    content = jpeg(noise(8, *LARGE))
    spoiled = content[:-2] + b"\x00" * 40 + content[-2:]  # bytes between the pixels and the end marker
    header = open_header(spoiled, "x")
    np.testing.assert_array_equal(decoded(spoiled, "exact"), decoded(content, "exact"))
    assert difference(decoded(spoiled, "fast"), Image.open(io.BytesIO(content))) < 1
    assert fast.reduced(content, header, SIZE) is not None


@pytest.mark.parametrize(
    "content",
    [
        picture_bytes(0, "PNG"),
        jpeg(noise(0).convert("CMYK")),
        jpeg(noise(0, 200, 100))[:-400] + b"\xff\xd9",
    ],
    ids=["PNG", "CMYK", "damaged"],
)
def test_what_simplejpeg_cannot_do_is_left_to_pillow(content: bytes) -> None:
    assert fast.reduced(content, open_header(content, "x"), SIZE) is None


def test_a_picture_whose_header_is_not_the_decoders_is_left_to_pillow() -> None:
    small, large = jpeg(noise(0, 64, 64)), jpeg(noise(1, 320, 320))
    assert fast.reduced(small, open_header(large, "x"), SIZE) is None


@given(cut=st.integers(4, 3000), junk=st.binary(max_size=60))
@settings(max_examples=80, deadline=None)
def test_damaged_bytes_end_alike_in_both_ways(cut: int, junk: bytes) -> None:
    content = jpeg(noise(9, 96, 80))
    spoiled = content[:cut] + junk + content[cut + len(junk) :]
    ends: list[Any] = []
    for decoding in get_args(Decoding):
        try:
            ends.append(decoded(spoiled, decoding).shape)
        except DataError as error:
            ends.append(str(error))
    assert ends[0] == ends[1]


# ---------------------------------------------------------------------------------------------------------------------
# Resizing


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(160, 120), (120, 160), (90, 91), (20, 15)])
def test_resizing_is_pillows_to_a_level_or_two(interpolation: Any, size: tuple[int, int]) -> None:
    image = noise(10, *size)
    found = fast.resized(np.array(image), 48, 36, interpolation).astype(int)
    wanted = np.asarray(image.resize((48, 36), Image.Resampling[interpolation.upper()]))
    assert np.abs(found - wanted).max() <= 2
    assert np.abs(found - wanted).mean() < 0.2


def test_without_torch_it_is_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(10, 160, 120)
    monkeypatch.delitem(sys.modules, "torch")
    found = fast.resized(np.array(image), 48, 36, "bicubic")
    np.testing.assert_array_equal(found, image.resize((48, 36), Image.Resampling.BICUBIC))


def test_what_has_its_size_already_stays_as_it_is() -> None:
    pixels = np.array(noise(11, 20, 10))
    assert fast.resized(pixels, 20, 10, "bicubic") is pixels


def test_a_process_without_torch_decodes_without_loading_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(noise(12, *LARGE)))
    program = (
        "import sys; from polymodal.data.decode import read_pixels; from polymodal.preprocess import ImagePreprocess; "
        "pixels = read_pixels('a.jpg', None, ImagePreprocess(size=32, decoding='fast')); "
        "print(pixels.shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "(3, 32, 32) False\n"
