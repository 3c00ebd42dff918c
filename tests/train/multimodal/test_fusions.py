from typing import get_args

import pytest
import torch

from polymodal.encoders import EncoderConfig, RecordConfig, ResnetConfig, VitConfig
from polymodal.errors import ConfigError
from polymodal.fusion import FusionConfig
from polymodal.models.multimodal import MultimodalConfig
from polymodal.train.multimodal.fusions import MAKERS, fusion_named, heads_of
from polymodal.types import Record
from tests import tiny

RECORD = RecordConfig(numbers=2, width=64, layers=1, heads=2)
KINDS = [member.model_fields["kind"].default for member in get_args(get_args(FusionConfig)[0])]


def test_every_kind_of_the_union_has_a_name() -> None:
    assert set(MAKERS) == {*KINDS, "concat"}


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("spatial", "fuse_text")])
def test_each_joins_two_records(name: str) -> None:
    encoders = {"left": RECORD, "right": RECORD}
    config = fusion_named(name, encoders, 500)
    assert config.kind == ("late" if name == "concat" else name)
    model = MultimodalConfig(encoders=encoders, fusion=config).build()
    record = Record(torch.randn(3, 2), torch.zeros(3, 2, dtype=torch.bool), torch.zeros(3, 0, dtype=torch.int64))
    assert torch.isfinite(model({"left": record, "right": record}).fused.pooled).all()


@pytest.mark.parametrize("name", ["late", "tensor", "low_rank", "bottleneck", "mult", "early", "hybrid"])
def test_more_inputs_and_more_rows(name: str) -> None:
    encoders = dict.fromkeys("abcd", RECORD)
    MultimodalConfig(encoders=encoders, fusion=fusion_named(name, encoders, 10_000))  # builds a skeleton


def test_sizes_follow_the_rows() -> None:
    encoders = {"left": RECORD, "right": RECORD}
    widths = [fusion_named("early", encoders, rows).to_dict()["width"] for rows in (500, 5000)]
    assert widths == [64, 128]


def test_pictures_lie_on_one_grid_and_a_class_token_stands_before_it() -> None:
    vit = VitConfig(image_size=64, patch_size=16, width=32, layers=1, heads=1)
    encoders: dict[str, EncoderConfig] = {
        "photo": ResnetConfig(image_size=64, block="basic", layers=(1, 1, 1, 1), stem=16),
        "scan": vit,
    }
    config = fusion_named("spatial", encoders, 500)
    model = MultimodalConfig(encoders=encoders, fusion=config).build()
    pixels = torch.randn(2, 3, 64, 64)
    fused = model({"photo": pixels, "scan": pixels}).fused
    assert fused.tokens["photo"].sequence.shape[1] == 4 * 4


def test_a_text_reads_the_other_input() -> None:
    config = fusion_named("fuse_text", {"record": RECORD, "words": tiny.text_config()}, 500)
    assert config.to_dict()["text"] == "words"
    assert heads_of(16) == 1


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("ealry", "ab", r'no fusion is named "ealry"; did you mean "early"\?'),
        ("???", "ab", r'no fusion is named "\?\?\?"; known: late, concat, attention_pool'),
        ("coattention", "abc", r'fusion "coattention" joins exactly two inputs, got 3 \(a, b, c\)'),
        ("crossmodal", "abc", r'fusion "crossmodal" joins exactly two inputs, got 3 \(a, b, c\)'),
        ("fuse_text", "abc", r'fusion "fuse_text" joins exactly two inputs, got 3 \(a, b, c\)'),
        ("fuse_text", "ab", r'fusion "fuse_text": a text reads the other input; no text: a, b'),
        ("spatial", "ab", r'fusion "spatial" lays pictures on one grid; no picture: a, b'),
        ("tensor", "abcdefghijklm", r'fusion "tensor": 13 inputs have too many products; take "low_rank"'),
    ],
)
def test_what_cannot_be_made_is_said(name: str, inputs: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fusion_named(name, dict.fromkeys(inputs, RECORD), 500)
