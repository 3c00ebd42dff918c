"""CLIP as a composition: what is joined, what is refused, the scale."""

import math

import pytest
import torch
from torch import nn

from polymodal.errors import ConfigError
from polymodal.models.clip import ClipConfig
from tests import tiny


def parsed(**changes: object) -> ClipConfig:
    data = {"image": {"kind": "vit"}, "text": {"kind": "text_transformer"}} | changes
    return ClipConfig.parse(data, "recipe.yaml")


def test_the_defaults_are_vit_b_32() -> None:
    config = parsed()
    assert (config.image.width, config.text.width, config.shared_width) == (768, 512, 512)


def test_without_projections_widths_must_agree() -> None:
    with pytest.raises(ConfigError, match="towers' widths must agree, got image 768 and text 512"):
        parsed(width=None)
    assert parsed(width=None, text={"kind": "bert"}).shared_width == 768


def test_a_tower_without_a_projection_must_have_the_shared_width() -> None:
    with pytest.raises(
        ConfigError, match=r"text_projection null needs text\.width to be the shared width 128, got 512"
    ):
        parsed(width=128, text_projection=None)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'image\.kind "vitt" is not known; did you mean "vit"\?'):
        parsed(image={"kind": "vitt"})


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(temperature=0, image={"kind": "vit", "heads": 0}, text={"kind": "bert", "poool": "cls"})
    message = str(caught.value)
    assert "image.heads" in message
    assert 'unknown key "text.poool"; did you mean "pool"?' in message
    assert "temperature" in message


def test_projections_of_each_kind() -> None:
    model = tiny.clip(image_projection="mlp", text_projection=None, width=16)
    assert isinstance(model.text_projection, nn.Identity)
    assert isinstance(model.image_projection, nn.Sequential)
    assert [tuple(p.shape) for p in model.image_projection.parameters()] == [(16, 16), (16, 16)]
    assert model.embed_image(tiny.pixels().float()).shape == (4, 16)


def test_projections_start_with_the_spread_of_clip() -> None:
    torch.manual_seed(1)
    model = tiny.clip_config(image=tiny.vit_config(width=256, heads=2), width=128).build()
    assert isinstance(model.image_projection, nn.Linear)
    assert model.image_projection.weight.std().item() == pytest.approx(1 / 16, rel=0.05)


def test_the_scale_starts_at_the_temperature_and_is_held_at_its_ceiling() -> None:
    model = tiny.clip(temperature=0.07)
    assert model.log_scale.item() == pytest.approx(2.6593, abs=1e-4)
    nn.init.constant_(model.log_scale, math.log(500))
    model.clamp_scale()
    assert model.log_scale.exp().item() == pytest.approx(100)
    nn.init.constant_(model.log_scale, math.log(3))
    model.clamp_scale()
    assert model.log_scale.exp().item() == pytest.approx(3)


def test_a_fixed_temperature_gets_no_gradient() -> None:
    model, batch = tiny.clip(learn_temperature=False), tiny.image_text_batch()
    out = model(batch.pixels.float(), batch.text)
    (out.scale * out.image @ out.text.T).sum().backward()
    assert model.log_scale.grad is None
    assert "log_scale" in model.state_dict()


def test_siglip_starts_as_its_paper_says() -> None:
    """arXiv:2303.15343, algorithm 1: log t = log 10, b = -10."""
    batch = tiny.image_text_batch()
    out = tiny.siglip()(batch.pixels.float(), batch.text)
    assert out.scale.item() == pytest.approx(10)
    assert out.bias is not None
    assert out.bias.item() == -10
