"""Sentences into which zero-shot classification puts a label, and their choice by the label's language.

English: the 7 that CLIP's authors found to be enough for ImageNet (openai/CLIP, the notebook on prompt engineering).
Chinese: ours, of the kinds that Chinese-CLIP uses (arXiv:2211.01335).
"""

import re
from collections.abc import Sequence

from polymodal.errors import ConfigError

ENGLISH = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
CHINESE = (
    "{}的照片",
    "一张{}的照片",
    "一张包含{}的图片",
    "一张模糊的{}的照片",
    "{}的特写照片",
    "一幅{}的画",
    "{}的插图",
    "游戏里的{}",
)
_CHINESE_LETTER = re.compile(r"[\u3400-\u9fff\U00020000-\U0003134f]")


def templates_for(label: str) -> tuple[str, ...]:
    """The Chinese sentences for a label with a Chinese letter in it, the English ones for every other."""
    return CHINESE if _CHINESE_LETTER.search(label) else ENGLISH


def fill(label: str, templates: Sequence[str] | None = None) -> list[str]:
    """The label in each template; without templates, in those of its language.

    Raises:
        ConfigError: a template has no place `{}` for the label.
    """
    chosen = templates_for(label) if templates is None else templates
    if not chosen:
        raise ConfigError('templates: wanted at least one, such as "a photo of a {}", got none')
    for template in chosen:
        if "{}" not in template:
            raise ConfigError(f'template "{template}" has no place for the label; write {{}} where the label belongs')
    return [template.replace("{}", label) for template in chosen]
