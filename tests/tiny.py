"""The smallest real model, tokenizer and batch of each kind: real code paths, milliseconds on a CPU."""

from functools import cache
from typing import Any

import torch

from polymodal.encoders import BertConfig, TextTransformerConfig, VitConfig
from polymodal.models.clip import Clip, ClipConfig
from polymodal.preprocess import ImagePreprocess, Preprocess, TextPreprocess
from polymodal.text import Tokenizer, train_tokenizer
from polymodal.types import ImageTextBatch, Text

IMAGE_SIZE = 16
CAPTIONS = [
    "a dog on the beach",
    "two cats sleep on a red sofa",
    "a man rides a bicycle",
    "一只狗在沙滩上",
    "两只猫睡在红色的沙发上",
    "一个人骑自行车 with a dog",
    "",
    "a very long caption that goes on and on and names a dog, a cat, a man, a bicycle, a sofa and a beach",
]
VOCAB_SIZE = 512


def preprocess() -> Preprocess:
    return Preprocess(image=ImagePreprocess(size=IMAGE_SIZE), text=TextPreprocess(max_length=12))


@cache
def tokenizer() -> Tokenizer:
    """A byte-level BPE of at most `VOCAB_SIZE` ids, learned from `CAPTIONS`."""
    return train_tokenizer(CAPTIONS * 2, "bpe", vocab_size=VOCAB_SIZE)


def vit_config(**changes: Any) -> VitConfig:
    sizes = {"image_size": IMAGE_SIZE, "patch_size": 8, "width": 16, "layers": 2, "heads": 2}
    return VitConfig.parse(sizes | changes, "tiny")


def text_config(**changes: Any) -> TextTransformerConfig:
    sizes = {"vocab_size": VOCAB_SIZE, "max_length": 12, "width": 16, "layers": 2, "heads": 2}
    return TextTransformerConfig.parse(sizes | changes, "tiny")


def bert_config(**changes: Any) -> BertConfig:
    sizes = {"vocab_size": VOCAB_SIZE, "max_length": 12, "width": 16, "layers": 2, "heads": 2}
    return BertConfig.parse(sizes | changes, "tiny")


def clip_config(**changes: Any) -> ClipConfig:
    """About 30,000 weights; `changes` are fields of `ClipConfig`."""
    return ClipConfig(**({"image": vit_config(), "text": text_config(), "width": 8} | changes))


def siglip_config() -> ClipConfig:
    style = {"activation": "gelu_tanh", "eps": 1e-6}
    return ClipConfig(
        image=vit_config(class_token=False, patch_bias=True, pre_norm=False, pool="map", **style),
        text=text_config(causal=False, head=True, **style),
        width=None,
        temperature=0.1,
        bias=-10.0,
    )


def clip(**changes: Any) -> Clip:
    torch.manual_seed(7)
    return clip_config(**changes).build().eval()


def siglip() -> Clip:
    torch.manual_seed(7)
    return siglip_config().build().eval()


def pixels(count: int = 4, size: int = IMAGE_SIZE) -> torch.Tensor:
    """Pictures of noise, (count, 3, size, size) uint8."""
    draw = torch.Generator().manual_seed(11)
    return torch.randint(256, (count, 3, size, size), generator=draw, dtype=torch.uint8)


def text(count: int = 4) -> Text:
    """The first `CAPTIONS`, again and again."""
    return tokenizer()([CAPTIONS[row % len(CAPTIONS)] for row in range(count)], preprocess().text)


def image_text_batch(count: int = 4) -> ImageTextBatch:
    return ImageTextBatch(pixels(count), text(count), torch.arange(count))
