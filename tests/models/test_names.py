"""The table of names against the sizes that their publishers give."""

import json

import pytest

from polymodal.errors import ConfigError
from polymodal.layers.skeleton import skeleton
from polymodal.models import names

EXACT = {
    "clip-vit-b32": 151_277_313,
    "siglip-b16-224": 203_155_970,
    "resnet50": 25_557_032 - 2_049_000,  # torchvision's, less its classifier
    "resnet18": 11_689_512 - 513_000,
    "vit-ti16": 5_717_416 - 193_000,  # timm's, less its classifier
    "vit-s16": 22_050_664 - 385_000,
    "vit-b16": 86_567_656 - 769_000,
    "vit-b32": 88_224_232 - 769_000,
    "vit-l16": 304_326_632 - 1_025_000,
    "bert-base": 109_482_240 - 768 * 769,  # with its pooler, less that
    "whisper-tiny": 8_208_384 - 576_000 + 1_536,  # transformers' encoder, less positions, and biases of keys more
    "whisper-base": 20_590_592 - 768_000 + 3_072,
    "whisper-small": 88_154_112 - 1_152_000 + 9_216,
}
MILLIONS = {  # open_clip, docs/model_profile.csv; Chinese-CLIP's README
    "clip-rn50": 102.0,
    "clip-rn101": 119.7,
    "clip-rn50x4": 178.3,
    "clip-rn50x16": 291.0,
    "clip-rn50x64": 623.3,
    "clip-vit-b16": 149.6,
    "clip-vit-l14": 427.6,
    "clip-vit-l14-336": 427.9,
    "chinese-clip-rn50": 77.0,
    "chinese-clip-vit-b16": 188.3,
    "chinese-clip-vit-l14": 406.2,
    "chinese-clip-vit-l14-336": 406.6,
    "chinese-clip-vit-h14": 957.6,
}


@pytest.mark.parametrize("name", EXACT)
def test_parameters_are_exactly_the_published_number(name: str) -> None:
    assert names.sizes(name)["parameters"] == EXACT[name]


@pytest.mark.parametrize("name", MILLIONS)
def test_parameters_are_the_published_number_of_millions(name: str) -> None:
    count = names.sizes(name)["parameters"]
    assert isinstance(count, int)
    assert round(count / 1e6, 1) == MILLIONS[name]


@pytest.mark.parametrize("name", ["clip-vit-b32", "clip-rn50", "siglip-b16-224", "lit-vit-b16", "clip-tiny-lstm"])
def test_counts_by_towers_are_the_count_of_the_whole(name: str) -> None:
    model = skeleton(names.config(name).build)
    assert names.sizes(name)["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_the_two_towers_of_vit_b_32() -> None:
    row = names.sizes("clip-vit-b32")
    assert (row["image_parameters"], row["text_parameters"]) == (87_849_216, 63_428_096)
    assert (row["image_size"], row["max_length"], row["width"]) == (224, 77, 512)


def test_a_single_tower_has_one_count() -> None:
    row = names.sizes("bert-base")
    assert (row["image"], row["text"], row["image_parameters"]) == (None, "bert", None)
    row = names.sizes("whisper-base")
    assert (row["text"], row["audio"], row["max_length"]) == (None, "whisper", 1500)


def test_no_name_stands_for_two_things() -> None:
    tables = (names.MODELS, names.JOINT, names.ENCODERS)
    assert len({name for table in tables for name in table}) == sum(len(table) for table in tables)


def test_a_model_whose_inputs_meet_has_one_count() -> None:
    row = names.sizes("vilbert")
    # The published number, less weights that nothing reads, and learned tokens for absent inputs more.
    assert row["parameters"] == 250_044_029 - 11_020_800 + 768 + 1024
    assert (row["image"], row["text"], row["image_size"], row["width"]) == ("regions", "bert", None, 1024)
    row = names.sizes("albef-tiny")
    assert (row["image"], row["image_size"], row["max_length"], row["width"]) == ("vit", 64, 32, 128)


@pytest.mark.parametrize("name", names.JOINT)
def test_a_config_of_a_model_whose_inputs_meet_comes_back_from_json(name: str) -> None:
    found = names.config(name)
    assert type(found).parse(json.loads(json.dumps(found.to_dict())), name) == found


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    message = r'no model is named "clip-vitb32"; did you mean "clip-vit-b32"\?; `polymodal models` lists them all'
    with pytest.raises(ConfigError, match=message):
        names.config("clip-vitb32")
    with pytest.raises(ConfigError, match=r'"vilbert-tny"; did you mean "vilbert-tiny"\?'):
        names.config("vilbert-tny")
    with pytest.raises(ConfigError, match=r'no encoder is named "resnet-50"; did you mean "resnet50"\?'):
        names.encoder_config("resnet-50")
