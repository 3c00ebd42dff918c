import pytest
import torch
from torch import nn

from polymodal.errors import ConfigError
from polymodal.layers.lora import LoraLinear, apply_lora, lora_parameters, merge_lora
from tests import tiny


def trained(module: nn.Module) -> nn.Module:
    """`module` with corrections that are not zero."""
    for parameter in lora_parameters(module):
        nn.init.normal_(parameter, std=0.3)
    return module


def test_training_starts_at_the_given_model() -> None:
    model, batch = tiny.clip(), tiny.image_text_batch()
    before = model.embed_text(batch.text)
    names = apply_lora(model, rank=2)
    assert len(names) == 8  # two towers of two blocks, qkv and out
    assert torch.equal(model.embed_text(batch.text), before)


def test_it_is_the_formula() -> None:
    torch.manual_seed(1)
    base = nn.Linear(5, 3)
    layer = LoraLinear(base, rank=2, alpha=6.0)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(4, 5)
    expected = base(x) + 3.0 * (x @ layer.lora_a.T @ layer.lora_b.T)
    torch.testing.assert_close(layer(x), expected)


def test_merged_gives_the_same_and_has_plain_names_again() -> None:
    model, batch = tiny.clip(), tiny.image_text_batch()
    plain = set(model.state_dict())
    apply_lora(model, rank=2, targets=["*"])
    trained(model)
    before = model.embed_text(batch.text)
    assert len(merge_lora(model)) == 18
    assert set(model.state_dict()) == plain
    assert not any(isinstance(module, LoraLinear) for module in model.modules())
    torch.testing.assert_close(model.embed_text(batch.text), before, rtol=1e-5, atol=1e-6)


def test_only_the_corrections_of_its_layers_learn() -> None:
    model = tiny.clip()
    apply_lora(model, rank=2, targets=["text_encoder.*.attention.qkv"])
    model.embed_text(tiny.text()).sum().backward()
    layer = model.get_submodule("text_encoder.blocks.1.attention.qkv")
    assert isinstance(layer, LoraLinear)
    assert layer.weight.grad is None
    assert layer.lora_b.grad is not None
    assert layer.lora_b.grad.any()
    assert model.text_projection.weight.requires_grad


def test_a_plain_checkpoint_fits_beside_the_corrections() -> None:
    model = tiny.clip()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    apply_lora(model, rank=2)
    lacking, unknown = model.load_state_dict(state, strict=False)
    assert unknown == []
    assert all(name.endswith(("lora_a", "lora_b")) for name in lacking)


def test_its_errors_say_what_there_is() -> None:
    with pytest.raises(
        ConfigError, match=r'"\*qv" fits no linear layer; there are 18, first: image_encoder\.blocks\.0'
    ):
        apply_lora(tiny.clip(), targets=["*qkv", "*qv"])
    with pytest.raises(ConfigError, match=r"lora\.rank must be at least 1, got 0"):
        apply_lora(tiny.clip(), rank=0)
