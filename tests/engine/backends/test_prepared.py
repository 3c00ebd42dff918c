from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from polymodal.engine.backends.prepared import PackedLinear, has_onednn, prepared
from polymodal.layers.compressed import Int8Linear
from polymodal.layers.mlp import Mlp
from tests import tiny


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(0,), (1,), (5,), (2, 7), (0, 7), (3, 2, 2)])
def test_a_packed_layer_is_the_layer(bias: bool, rows: tuple[int, ...]) -> None:
    layer = nn.Linear(24, 40, bias)
    packed = PackedLinear(layer, torch.float32, torch.float32)
    assert packed.packs is has_onednn()
    with torch.inference_mode():
        x = drawn(*rows, 24)
        torch.testing.assert_close(packed(x), layer(x), atol=1e-6, rtol=1e-5)
        strange = drawn(24, *rows).movedim(0, -1)  # not contiguous
        torch.testing.assert_close(packed(strange), layer(strange), atol=1e-6, rtol=1e-5)


def test_without_onednn_it_is_a_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    layer = nn.Linear(24, 40)
    packed = PackedLinear(layer, torch.float32, torch.float32)
    assert not packed.packs
    assert torch.equal(packed(drawn(5, 24)), layer(drawn(5, 24)))


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_tanh", "relu"])
@pytest.mark.parametrize(("precision", "near"), [("float32", 1e-5), ("bfloat16", 0.03), ("int8", 0.05)])
def test_an_mlp_keeps_its_answers_and_its_weights(act: Any, precision: Any, near: float) -> None:
    mlp = Mlp(96, 160, act)
    before = {name: weight.clone() for name, weight in mlp.state_dict().items()}
    x = drawn(4, 7, 96)
    with torch.inference_mode():
        wanted, found = mlp(x), prepared(mlp, precision)(x)
    assert found.dtype == torch.float32
    assert (found - wanted).abs().max() < near * wanted.abs().max()
    for name, weight in mlp.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("make", [tiny.clip, tiny.siglip])
def test_in_bfloat16_a_model_stays_near_and_gives_float32(make: Any) -> None:
    model = make()
    with torch.inference_mode():
        pixels = tiny.preprocess().image.normalize(tiny.pixels())
        found = prepared(model.image_encoder, "bfloat16")(pixels).pooled
        wanted = model.image_encoder(pixels).pooled
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, wanted).min() > 0.9995


def test_int8_does_not_saturate() -> None:
    """Every activation at 255 and every weight at its largest: sums of pairs that 16 bits would cut are exact here."""
    layer = nn.Linear(256, 64, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.ones(64, 256) * torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0)[:, None])
    twin = prepared(nn.Sequential(layer), "int8").get_submodule("0")
    assert isinstance(twin, Int8Linear)
    x = torch.ones(3, 256)
    with torch.inference_mode():
        torch.testing.assert_close(twin(x), linear(x, layer.weight), atol=1e-3, rtol=1e-5)


def test_layers_of_few_outputs_stay_float32() -> None:
    assert isinstance(prepared(nn.Sequential(nn.Linear(96, 8)), "int8").get_submodule("0"), PackedLinear)


def test_what_compression_has_rounded_stays_as_it_is() -> None:
    rounded = Int8Linear.of(nn.Linear(96, 96))
    twin = prepared(nn.Sequential(rounded), "float32").get_submodule("0")
    assert isinstance(twin, Int8Linear)
    assert twin.weight is rounded.weight
