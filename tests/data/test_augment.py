import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator
from PIL import Image

from polymodal.data.augment import (
    Augment,
    ImageAugment,
    TextAugment,
    augment_image,
    augment_text,
    canvas,
    choose_caption,
    names_a_color,
    names_a_side,
)
from polymodal.errors import ConfigError
from polymodal.preprocess import ImagePreprocess
from tests.data.files import noise

PREPROCESS = ImagePreprocess(size=16)
WHOLE = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}


def rng(seed: int = 0) -> Generator:
    return np.random.default_rng(seed)


def two_colors() -> Image.Image:
    """Red on the left, green on the right."""
    image = Image.new("RGB", (16, 16), (200, 0, 0))
    image.paste((0, 150, 0), (8, 0, 16, 16))
    return image


@pytest.mark.parametrize(
    ("caption", "side", "color"),
    [
        ("a dog left of a cat", True, False),
        ("Right-hand side", True, False),
        ("the leftmost cup, upright", True, False),
        ("an upright copyright sign on brightly lit streets", False, False),
        ("小猫在狗的左边", True, False),
        ("右手", True, False),
        ("a red car", False, True),
        ("Reddish sky, golden hour", False, True),
        ("black-and-white photo", False, True),
        ("she scared a bored fox", False, False),
        ("一辆红色的汽车", False, True),
        ("白猫", False, True),
        ("a dog on the beach", False, False),
        ("一只狗在沙滩上", False, False),
    ],
)
def test_which_captions_speak_of_sides_and_colors(caption: str, side: bool, color: bool) -> None:
    assert names_a_side(["something", caption]) is side
    assert names_a_color(["something", caption]) is color


def test_flip_mirrors_unless_any_caption_names_a_side() -> None:
    always = ImageAugment(flip=1, **WHOLE)
    flipped = augment_image(two_colors(), ["a thing"], PREPROCESS, always, rng())
    assert flipped.getpixel((2, 8)) == (0, 150, 0)
    kept = augment_image(two_colors(), ["a thing", "left of it"], PREPROCESS, always, rng())
    assert kept.getpixel((2, 8)) == (200, 0, 0)


@pytest.mark.parametrize("strength", [{"grayscale": 1.0}, {"hue": 0.5}])
def test_no_gray_and_no_other_hue_when_a_caption_names_a_color(strength: dict[str, float]) -> None:
    config = ImageAugment(**strength, **WHOLE)
    changed = augment_image(two_colors(), ["a thing"], PREPROCESS, config, rng(3))
    kept = augment_image(two_colors(), ["一个红色的东西"], PREPROCESS, config, rng(3))
    assert changed.tobytes() != kept.tobytes()
    assert kept.tobytes() == two_colors().tobytes()


def test_rand_augment_keeps_colors_when_one_is_named() -> None:
    config = ImageAugment(rand_augment=2, magnitude=10, **WHOLE)
    for seed in range(40):
        seen = np.asarray(augment_image(two_colors(), ["red and green"], PREPROCESS, config, rng(seed))).astype(int)
        red, green, blue = seen[..., 0], seen[..., 1], seen[..., 2]
        # Red stays red and green green (or white, where nothing of the picture is): no blue comes out on top.
        assert (blue <= np.maximum(red, green) + 2).all(), seed


@given(seed=st.integers(0, 10_000), width=st.integers(3, 60), height=st.integers(3, 60))
@settings(max_examples=40, deadline=None)
def test_any_draw_is_an_rgb_square_of_the_models_size_and_repeats(seed: int, width: int, height: int) -> None:
    config = ImageAugment(
        scale=(0.1, 1), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2, grayscale=0.2, rotate=30,
        shift=0.2, zoom=0.2, rand_augment=2, background=0.5,
    )  # fmt: skip
    for preprocess in (PREPROCESS, ImagePreprocess(size=16, fit="squash")):
        kept = canvas(noise(seed, width, height).convert("RGBA"), preprocess, config)
        one = augment_image(kept, ["a"], preprocess, config, rng(seed))
        assert (one.mode, one.size) == ("RGB", (16, 16))
        assert one.tobytes() == augment_image(kept, ["a"], preprocess, config, rng(seed)).tobytes()


def test_without_any_strength_nothing_changes() -> None:
    image = noise(1, 16, 16)
    same = augment_image(image, ["a"], PREPROCESS, ImageAugment(**WHOLE), rng())
    assert same.tobytes() == image.tobytes()


def test_crops_keep_the_share_of_the_area_that_was_asked_for() -> None:
    # A ramp from 0 to 255: the range of levels in the crop tells its width.
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))).convert("RGB")
    config = ImageAugment(scale=(0.25, 0.25), ratio=(1, 1))
    widths = []
    for seed in range(20):
        levels = np.asarray(augment_image(ramp, [], PREPROCESS, config, rng(seed)))[0, :, 0].astype(int)
        widths.append((levels[-1] - levels[0]) * 16 / 15)
    assert np.allclose(widths, 128, atol=4)


def test_a_canvas_is_large_enough_for_every_crop_and_no_larger() -> None:
    config = ImageAugment(scale=(0.64, 1))
    assert canvas(noise(0, 400, 300), PREPROCESS, config).size == (27, 20)  # 16 / sqrt(0.64)
    assert canvas(noise(0, 400, 300), PREPROCESS, ImageAugment(scale=(0.01, 1))).size == (32, 24)  # 1.5 times at most
    assert canvas(noise(0, 900, 300), PREPROCESS, config).size == (40, 20)  # 2:1 at most
    assert canvas(noise(0, 12, 10), PREPROCESS, config).size == (12, 10)  # never scaled up
    assert canvas(noise(0, 400, 300), PREPROCESS, None).size == (16, 16)


def test_background_is_random_only_where_it_shows() -> None:
    image = Image.new("RGBA", (16, 16), (0, 0, 255, 0))
    image.paste((10, 20, 30, 255), (4, 4, 12, 12))
    config = ImageAugment(background=1, **WHOLE)
    corners = set()
    for seed in range(5):
        seen = augment_image(canvas(image, PREPROCESS, config), [], PREPROCESS, config, rng(seed))
        assert seen.getpixel((8, 8)) == (10, 20, 30)
        corners.add(seen.getpixel((0, 0)))
    assert len(corners) == 5


def test_words_are_dropped_and_swapped_chinese_ones_by_character() -> None:
    dropout = TextAugment(dropout=0.5)
    seen = {augment_text("a dog on 沙滩上", dropout, rng(seed)) for seed in range(50)}
    assert len(seen) > 10
    assert all(seen)
    assert {"a", "dog", "on"} >= {word for text in seen for word in text.split() if word.isascii()}
    assert augment_text("one two", TextAugment(swap=1), rng()) == "two one"
    assert augment_text("沙滩", TextAugment(swap=1), rng()) == "滩沙"
    assert augment_text("one", TextAugment(dropout=1), rng()) == "one"
    assert augment_text("", TextAugment(dropout=1), rng()) == ""
    assert augment_text("kept  as it is", TextAugment(), rng()) == "kept  as it is"


def test_captions_are_chosen_evenly_or_the_first() -> None:
    captions = ["a", "b", "c", "d"]
    generator = rng()
    counts = [[choose_caption(captions, TextAugment(), generator) for _ in range(4000)].count(c) for c in captions]
    assert all(850 < count < 1150 for count in counts)
    assert choose_caption(captions, TextAugment(choice="first"), generator) == "a"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"image": {"scale": [0.9, 0.2]}}, "image.scale: wanted two numbers above 0, the smaller one first"),
        ({"image": {"scale": [0.5, 2]}}, "image.scale: wanted shares of the picture, at most 1"),
        ({"image": {"flipp": 0.5}}, 'unknown key "image.flipp"; did you mean "flip"?'),
        ({"text": {"dropout": 2}}, "text.dropout: .* less than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        Augment.parse(data, "recipe.yaml")
