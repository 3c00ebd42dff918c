"""Augmentation of pictures and texts that never makes a pair untrue.

Everything is drawn from the generator that is handed in, so that (seed, epoch, row) decide it.
Sources: random resized crop, Szegedy et al. 2014, arXiv:1409.4842, section 6; RandAugment, Cubuk et al. 2019,
arXiv:1909.13719 (operations of figure 2, without identity); word dropout and swap, Wei and Zou 2019, arXiv:1901.11196.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageEnhance, ImageOps
from pydantic import Field, field_validator

from polymodal.config import Config
from polymodal.data.decode import RESAMPLING, center_crop, cut_strip, fit, flatten, resize, upright
from polymodal.preprocess import ImagePreprocess

Share = Annotated[float, Field(ge=0, le=1)]
Color = tuple[int, int, int]


class ImageAugment(Config):
    """Probabilities and strengths are 0 to 1; 0 is off."""

    scale: tuple[float, float] = (0.9, 1.0)  # share of the picture's area that the random crop keeps
    ratio: tuple[float, float] = (0.75, 4 / 3)  # width / height of the crop
    flip: Share = 0.0  # probability of left-right mirroring; never when a caption says left or right
    brightness: Share = 0.0  # factor in 1 - x to 1 + x; contrast and saturation likewise
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: float = Field(0.0, ge=0, le=0.5)  # of a whole turn, either way; never when a caption names a color
    grayscale: Share = 0.0  # probability; never when a caption names a color
    rotate: float = Field(0.0, ge=0, le=180)  # degrees, either way
    shift: Share = 0.0  # of the side, either way
    zoom: float = Field(0.0, ge=0, lt=1)  # factor in 1 - x to 1 + x
    rand_augment: int = Field(0, ge=0, le=14)  # how many RandAugment operations
    magnitude: float = Field(9.0, ge=0, le=10)  # of those
    background: Share = 0.0  # probability of a random color behind a transparent picture

    @field_validator("scale", "ratio")
    @classmethod
    def _is_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("wanted two numbers above 0, the smaller one first")
        return value

    @field_validator("scale")
    @classmethod
    def _is_share(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[1] > 1:
            raise ValueError("wanted shares of the picture, at most 1")
        return value


class TextAugment(Config):
    choice: Literal["random", "first"] = "random"  # which of a row's captions
    dropout: Share = 0.0  # probability that a word is left out; at least one stays
    swap: Share = 0.0  # probability that a word changes places with the next


class Augment(Config):
    image: ImageAugment = ImageAugment()
    text: TextAugment = TextAugment()


# ---------------------------------------------------------------------------------------------------------------------
# What a caption forbids

_SIDES = re.compile(r"(?<![a-z])(?:left|right)(?:s|y|most|ward|wards|hand|handed|side)?(?![a-z])|[左右]", re.IGNORECASE)
_COLORS = re.compile(
    r"(?<![a-z])(?:red|orange|yellow|green|blue|indigo|purple|violet|pink|brown|black|white|gr[ae]y|gold|golden|silver|"
    r"beige|cyan|magenta|turquoise|teal|maroon|navy|crimson|scarlet|lavender|khaki|olive|azure|blond|blonde|ginger|"
    r"rainbow|colou?r(?:s|ed|ful|less)?|black[- ]and[- ]white|monochrome|sepia)(?:dish|ish|s)?(?![a-z])"
    r"|[红橙黄绿青蓝靛紫黑白灰褐棕粉金银彩紅黃綠藍銀]|[颜顏][色]|色",
    re.IGNORECASE,
)


def names_a_side(captions: Sequence[str]) -> bool:
    """Whether some caption speaks of left or right, in English or Chinese."""
    return any(_SIDES.search(caption) for caption in captions)


def names_a_color(captions: Sequence[str]) -> bool:
    """Whether some caption names a color; in Chinese a character that may be part of another word counts too."""
    return any(_COLORS.search(caption) for caption in captions)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def canvas(image: Image.Image, preprocess: ImagePreprocess, augment: ImageAugment | None) -> Image.Image:
    """What is kept of a picture between epochs.

    Without augmentation the square of `preprocess.size` that the model sees. With it, enough of the picture for
    every crop to have that size without being scaled up: its shorter side is at most 1.5 times `size`, its longer side
    at most twice the shorter one, and transparency stays when `background` needs it.
    """
    if augment is None:
        image = fit(flatten(image, preprocess.background), preprocess.size, preprocess)
        return center_crop(image, preprocess.size, preprocess.size)
    image = upright(image) if augment.background else flatten(image, preprocess.background)
    image = cut_strip(image)
    side = shorter_side(preprocess, augment)
    if side < min(image.size):
        factor = side / min(image.size)
        width, height = (max(side, round(length * factor)) for length in image.size)
        image = resize(image, width, height, preprocess)
    longest = 2 * min(image.size)
    return center_crop(image, min(image.width, longest), min(image.height, longest))


def shorter_side(preprocess: ImagePreprocess, augment: ImageAugment | None) -> int:
    """Pixels of the shorter side of a `canvas`, at most."""
    if augment is None:
        return preprocess.size
    return min(math.ceil(preprocess.size / math.sqrt(augment.scale[0])), math.ceil(1.5 * preprocess.size))


def decoded_side(preprocess: ImagePreprocess, augment: ImageAugment | None) -> int | None:
    """What `decode.open_image` is to be asked for as `side`, when a `canvas` is all that is wanted of a picture."""
    return shorter_side(preprocess, augment) if preprocess.decoding == "fast" else None


def augment_image(
    image: Image.Image, captions: Sequence[str], preprocess: ImagePreprocess, augment: ImageAugment, rng: Generator
) -> Image.Image:
    """A random view of a `canvas`, RGB, `preprocess.size` on both sides, of which all captions are still true."""
    background = preprocess.background
    if rng.random() < augment.background and image.mode == "RGBA":
        background = tuple(rng.integers(0, 256, 3).tolist())
    box = _crop_box(image, preprocess, augment, rng)
    side = preprocess.size
    image = flatten(image.resize((side, side), RESAMPLING[preprocess.interpolation], box=box), background)
    if rng.random() < augment.flip and not names_a_side(captions):
        image = ImageOps.mirror(image)
    if augment.rotate or augment.shift or augment.zoom:
        angle = rng.uniform(-augment.rotate, augment.rotate)
        shift = rng.uniform(-augment.shift, augment.shift, 2) * side
        image = _affine(image, angle, 1 + rng.uniform(-augment.zoom, augment.zoom), tuple(shift), 0, 0, background)
    colored = names_a_color(captions)
    if augment.rand_augment:
        image = _rand_augment(image, colored, augment, background, rng)
    return _jitter(image, colored, augment, rng)


def _crop_box(
    image: Image.Image, preprocess: ImagePreprocess, augment: ImageAugment, rng: Generator
) -> tuple[float, float, float, float]:
    # A picture that will be squashed to a square is cropped in its own proportions.
    own = image.width / image.height if preprocess.fit == "squash" else 1.0
    for _ in range(10):
        area = image.width * image.height * rng.uniform(*augment.scale)
        ratio = own * math.exp(rng.uniform(math.log(augment.ratio[0]), math.log(augment.ratio[1])))
        width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if width <= image.width and height <= image.height:
            left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
            return left, top, left + width, top + height
    width = min(image.width, image.height * own)
    height = width / own
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return left, top, min(left + width, image.width), min(top + height, image.height)


def _affine(
    image: Image.Image,
    angle: float,
    zoom: float,
    shift: tuple[float, ...],
    shear_x: float,
    shear_y: float,
    background: Color,
) -> Image.Image:
    """Turned by `angle` degrees, zoomed and sheared about its middle, then shifted by pixels."""
    turn, middle = math.radians(angle), image.width / 2
    forward = zoom * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    inverse = np.linalg.inv(forward @ np.array([[1, shear_x], [shear_y, 1]]))  # Pillow asks where a pixel comes from
    offset = middle - inverse @ (np.array([middle, middle]) + np.array(shift))
    data = (*inverse[0].tolist(), float(offset[0]), *inverse[1].tolist(), float(offset[1]))
    method, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, method, data, resample=resample, fillcolor=background)


def _jitter(image: Image.Image, colored: bool, augment: ImageAugment, rng: Generator) -> Image.Image:
    strengths = (
        (ImageEnhance.Brightness, augment.brightness),
        (ImageEnhance.Contrast, augment.contrast),
        (ImageEnhance.Color, augment.saturation),
    )
    for place in rng.permutation(3):
        enhance, strength = strengths[place]
        if strength:
            image = enhance(image).enhance(rng.uniform(1 - strength, 1 + strength))
    if augment.hue and not colored:
        image = _turn_hue(image, rng.uniform(-augment.hue, augment.hue))
    if rng.random() < augment.grayscale and not colored:
        image = image.convert("L").convert("RGB")
    return image


def _turn_hue(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(level + round(turn * 256)) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


Operation = Callable[[Image.Image, float, Color], Image.Image]

# Each takes a strength in -1 to 1 (magnitude / 10, either sign); ranges are those of the paper's code.
_KEEP_COLOR: tuple[Operation, ...] = (
    lambda image, x, fill: _affine(image, 30 * x, 1, (0, 0), 0, 0, fill),
    lambda image, x, fill: _affine(image, 0, 1, (0, 0), 0.3 * x, 0, fill),
    lambda image, x, fill: _affine(image, 0, 1, (0, 0), 0, 0.3 * x, fill),
    lambda image, x, fill: _affine(image, 0, 1, (0.3 * x * image.width, 0), 0, 0, fill),
    lambda image, x, fill: _affine(image, 0, 1, (0, 0.3 * x * image.height), 0, 0, fill),
    lambda image, x, fill: ImageEnhance.Brightness(image).enhance(1 + 0.9 * x),
    lambda image, x, fill: ImageEnhance.Contrast(image).enhance(1 + 0.9 * x),
    lambda image, x, fill: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * x),
)
_CHANGE_COLOR: tuple[Operation, ...] = (
    lambda image, x, fill: ImageEnhance.Color(image).enhance(1 + 0.9 * x),
    lambda image, x, fill: ImageOps.autocontrast(image),
    lambda image, x, fill: ImageOps.equalize(image),
    lambda image, x, fill: ImageOps.posterize(image, 8 - round(4 * abs(x))),
    lambda image, x, fill: ImageOps.solarize(image, 256 - round(256 * abs(x))),
)


def _rand_augment(
    image: Image.Image, colored: bool, augment: ImageAugment, background: Color, rng: Generator
) -> Image.Image:
    operations = _KEEP_COLOR if colored else _KEEP_COLOR + _CHANGE_COLOR
    for place in rng.integers(0, len(operations), augment.rand_augment):
        strength = augment.magnitude / 10 * rng.choice((-1.0, 1.0))
        image = operations[place](image, strength, background)
    return image


# ---------------------------------------------------------------------------------------------------------------------
# Texts

_WORDS = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")  # a Chinese character is a word here


def choose_caption(captions: Sequence[str], augment: TextAugment, rng: Generator) -> str:
    return captions[int(rng.integers(len(captions)))] if augment.choice == "random" else captions[0]


def augment_text(caption: str, augment: TextAugment, rng: Generator) -> str:
    """The caption with some words left out and some neighbors swapped; never empty if it was not."""
    if not (augment.dropout or augment.swap):
        return caption
    words = [match.group() for match in _WORDS.finditer(caption)]
    kept = [word for word, draw in zip(words, rng.random(len(words)), strict=True) if draw >= augment.dropout]
    words = kept or words[:1]
    for place, draw in enumerate(rng.random(max(0, len(words) - 1))):
        if draw < augment.swap:
            words[place], words[place + 1] = words[place + 1], words[place]
    return _join(words)


def _join(words: Sequence[str]) -> str:
    text = ""
    for word in words:
        chinese = _is_chinese(word) and (not text or _is_chinese(text[-1]))
        text += word if chinese or not text else f" {word}"
    return text


def _is_chinese(word: str) -> bool:
    return "\u3400" <= word[0] <= "\u9fff"
