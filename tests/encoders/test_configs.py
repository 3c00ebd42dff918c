"""What the towers' configs refuse, and the sizes that they give."""

import pytest
import torch
from torch import nn

from polymodal.encoders import BertConfig, EfficientNetLiteConfig, ResnetConfig, TextTransformerConfig, VitConfig
from polymodal.encoders.efficientnet_lite import InvertedResidual, SameConv, round_channels
from polymodal.errors import ConfigError, ShapeError
from polymodal.types import Text
from tests import tiny


def test_heads_must_share_the_width() -> None:
    for config in (VitConfig, TextTransformerConfig, BertConfig):
        with pytest.raises(ConfigError, match=r"width must be a multiple of heads \(5\), got 64"):
            config.parse({"width": 64, "heads": 5}, "recipe.yaml")


def test_a_picture_must_hold_a_patch() -> None:
    with pytest.raises(ConfigError, match=r"image_size must be at least patch_size \(32\), got 16"):
        VitConfig.parse({"image_size": 16}, "recipe.yaml")


def test_the_class_token_cannot_be_read_where_there_is_none() -> None:
    with pytest.raises(ConfigError, match='pool "cls" reads the class token'):
        VitConfig.parse({"class_token": False}, "recipe.yaml")


def test_an_unknown_key_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r'recipe\.yaml: unknown key "patchsize"; did you mean "patch_size"\?'):
        VitConfig.parse({"patchsize": 16}, "recipe.yaml")


def test_a_text_longer_than_the_positions_is_refused() -> None:
    ids = torch.zeros(1, 13, dtype=torch.int64)
    text = Text(ids, torch.ones_like(ids, dtype=torch.bool))
    for config in (tiny.text_config(), tiny.bert_config()):
        with pytest.raises(
            ShapeError, match=r"at most 12 tokens have positions, got 13; set preprocess\.text\.max_length"
        ):
            config.build()(text)


@torch.no_grad()
def test_a_text_is_read_at_its_first_end_token_or_else_at_its_last_real_one() -> None:
    torch.manual_seed(1)
    model = tiny.text_config(pool="eos", eos_token_id=9).build().eval()
    ids = torch.tensor([[4, 9, 5, 9, 0], [4, 5, 6, 0, 0], [9, 4, 5, 6, 7]])
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    tokens = model(Text(ids, mask))
    for row, place in enumerate([1, 2, 0]):
        assert torch.equal(tokens.pooled[row], tokens.sequence[row, place])


@torch.no_grad()
def test_a_text_may_be_the_mean_of_its_real_tokens() -> None:
    torch.manual_seed(1)
    model = tiny.text_config(pool="mean", causal=False).build().eval()
    text = Text(torch.tensor([[4, 9, 5], [4, 5, 0]]), torch.tensor([[True, True, True], [True, True, False]]))
    tokens = model(text)
    torch.testing.assert_close(tokens.pooled[1], (tokens.sequence[1, 0] + tokens.sequence[1, 1]) / 2)
    alone = model(Text(text.ids[1:, :2], text.mask[1:, :2]))
    torch.testing.assert_close(tokens.pooled[1:], alone.pooled, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("block", "stem", "width"), [("bottleneck", 64, 2048), ("basic", 64, 512), ("basic", 32, 256)])
def test_width_of_a_resnet(block: str, stem: int, width: int) -> None:
    assert ResnetConfig.parse({"block": block, "stem": stem}, "").width == width


@pytest.mark.parametrize(
    ("channels", "rounded"), [(16.0, 16), (17.6, 16), (26.4, 24), (44.0, 48), (3.2, 8), (11.9, 16)]
)
def test_channels_are_rounded_as_in_the_source(channels: float, rounded: int) -> None:
    assert round_channels(channels) == rounded


@pytest.mark.parametrize(("side", "kernel", "stride"), [(8, 3, 2), (9, 3, 2), (8, 5, 2), (7, 5, 1), (10, 3, 1)])
def test_same_padding_gives_the_ceiling(side: int, kernel: int, stride: int) -> None:
    out = SameConv(1, 1, kernel, stride)(torch.zeros(1, 1, side, side + 1))
    assert out.shape[2:] == (-(-side // stride), -(-(side + 1) // stride))


def test_a_block_is_skipped_as_often_as_asked_and_never_in_use() -> None:
    torch.manual_seed(1)
    block = InvertedResidual(8, 8, 3, 1, 1, drop=0.25).train()
    x = torch.randn(400, 8, 4, 4)
    with torch.no_grad():
        moved = (block(x) != x).flatten(1).any(1).float().mean().item()
        assert moved == pytest.approx(0.75, abs=0.06)
        assert (block.eval()(x) != x).flatten(1).any(1).all()


@torch.no_grad()
def test_what_is_not_skipped_is_made_larger_so_that_the_mean_stays() -> None:
    torch.manual_seed(1)
    block = InvertedResidual(8, 8, 3, 1, 1, drop=0.25).train()
    for norm in (block.norm1, block.norm2):
        norm.eval()
    x = torch.randn(20, 8, 4, 4)
    added = block(x) - x
    plain = block.eval()(x) - x
    kept = added.flatten(1).any(1)
    assert 0 < kept.sum() < 20
    torch.testing.assert_close(added[kept], plain[kept] / 0.75, rtol=1e-4, atol=1e-6)


def test_the_chance_to_skip_rises_evenly() -> None:
    blocks = EfficientNetLiteConfig(drop_connect=0.2).build().blocks
    drops = [block.drop for block in blocks if isinstance(block, InvertedResidual)]
    assert drops == pytest.approx([0.2 * number / 16 for number in range(16)])


def test_start_values_of_positions_and_tokens() -> None:
    """openai/CLIP, clip/model.py: class token and positions width^-1/2; tokens 0.02, their positions 0.01."""
    torch.manual_seed(1)
    vit = VitConfig(image_size=64, patch_size=8, width=256, layers=1, heads=4).build()
    text = TextTransformerConfig(vocab_size=500, width=256, layers=1, heads=4).build()
    assert vit.positions.std().item() == pytest.approx(1 / 16, rel=0.05)
    assert vit.class_token is not None
    assert vit.class_token.std().item() == pytest.approx(1 / 16, rel=0.2)
    assert text.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert text.positions.std().item() == pytest.approx(0.01, rel=0.05)


def test_a_folded_efficientnet_gives_what_it_gave() -> None:
    config = EfficientNetLiteConfig(image_size=32, width_multiplier=0.2, head_width=16, pool="levels", classes=3)
    tower = config.build()
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics as if it had been trained
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) + 0.5
    pixels = tiny.pixels(3).float() / 128 - 1
    folded = tower.folded()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in tower.modules())  # the original is as it was
    with torch.no_grad():
        torch.testing.assert_close(folded(pixels).pooled, tower.eval()(pixels).pooled, atol=1e-4, rtol=1e-4)


def test_levels_and_logits_stand_beside_the_mean_of_the_last_grid() -> None:
    plain = EfficientNetLiteConfig(image_size=32, width_multiplier=0.2, head_width=16)
    wide = plain.model_copy(update={"pool": "levels", "classes": 3})
    assert plain.parts == (16,)
    assert wide.parts == (16, sum(channels for *_, channels in plain.stages[2:]), 3)
    torch.manual_seed(0)
    tower = wide.build().eval()
    narrow = plain.build().eval()
    narrow.load_state_dict({key: value for key, value in tower.state_dict().items() if not key.startswith("class")})
    pixels = tiny.pixels(2).float() / 128 - 1
    tokens = tower(pixels)
    torch.testing.assert_close(tokens.pooled[:, :16], narrow(pixels).pooled)
    assert tower.classifier is not None
    torch.testing.assert_close(tokens.pooled[:, -3:], tower.classifier(tokens.pooled[:, :16]))
    assert tokens.pooled.shape == (2, wide.width)
