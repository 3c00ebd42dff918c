import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from polymodal.layers.compressed import Int8Linear, LowRankLinear


def in_plain_floats(layer: Int8Linear, x: Tensor) -> Tensor:
    """scale (q_x - z) q_w + b, token by token, in float64."""
    rows = []
    for token in x:
        if layer.input_scale is not None and layer.input_zero is not None:
            scale, zero = layer.input_scale, layer.input_zero.float()
        else:
            low, high = token.min().clamp(max=0), token.max().clamp(min=0)
            scale = ((high - low) / 255).clamp(min=1e-12)
            zero = (-low / scale).round()
        quantized = ((token / scale).round() + zero).clamp(0, 255).double()
        products = (quantized - zero.double()) @ layer.weight.double().T
        rows.append(scale.double() * layer.scale.double() * products)
    out = torch.stack(rows)
    return out if layer.bias is None else out + layer.bias.double()


def linear(inputs: int, outputs: int, seed: int = 0, bias: bool = True) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)


@settings(max_examples=30, deadline=None)
@given(
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 40),
    tokens=st.integers(1, 9),
    seed=st.integers(0, 1000),
    bias=st.booleans(),
    static=st.booleans(),
    spread=st.sampled_from([1e-3, 1.0, 50.0]),
    shift=st.sampled_from([-1.0, 0.0, 3.0]),
)
def test_integers_give_what_plain_floats_give(
    inputs: int, outputs: int, tokens: int, seed: int, bias: bool, static: bool, spread: float, shift: float
) -> None:
    layer = linear(inputs, outputs, seed, bias)
    x = spread * (torch.randn(tokens, inputs) + shift)
    ours = Int8Linear.of(layer, x.min().item(), x.max().item()) if static else Int8Linear.of(layer)
    wanted = in_plain_floats(ours, x)
    assert (ours(x).double() - wanted).abs().max() <= 1e-4 * max(1.0, spread)
    assert (ours._in_floats(x).double() - wanted).abs().max() <= 1e-4 * max(1.0, spread)


def test_sums_do_not_saturate() -> None:
    """Where every product has its greatest value, a CPU without VNNI clips weights of 8 bits."""
    layer = linear(1024, 8, bias=False)
    layer.weight.fill_(0.5)
    layer.weight[::2] *= -1
    ours = Int8Linear.of(layer, 0.0, 255.0)
    x = torch.full((33, 1024), 255.0)
    assert ours(x)[0].tolist() == pytest.approx([(-1) ** (n + 1) * 1024 * 255 * 0.5 for n in range(8)], rel=1e-5)


def test_it_is_near_the_layer_that_it_was() -> None:
    layer, x = linear(64, 48), torch.randn(5, 7, 64)
    for ours in (Int8Linear.of(layer), Int8Linear.of(layer, x.min().item(), x.max().item())):
        out = ours(x)
        assert out.shape == (5, 7, 48)
        assert (out - layer(x)).norm() < 0.02 * layer(x).norm()
    assert (Int8Linear.of(layer).dequantized() - layer.weight).abs().max() < layer.weight.abs().max() / 126 * 1.01


def test_a_token_gives_what_it_gives_alone() -> None:
    ours = Int8Linear.of(linear(32, 16))
    x = torch.randn(6, 32) * torch.tensor([0.01, 1, 5, 100, 1, 1])[:, None]
    together = ours(x)
    for row in range(6):
        assert torch.allclose(together[row], ours(x[row : row + 1])[0], rtol=1e-5, atol=1e-6)


def test_zeros_give_the_bias() -> None:
    layer = linear(8, 4)
    assert torch.equal(Int8Linear.of(layer)(torch.zeros(2, 8)), layer.bias.expand(2, 4))


def test_scales_stay_exact_in_bfloat16() -> None:
    ours = Int8Linear.of(linear(32, 16), -3.0, 3.0)
    x = torch.randn(4, 32)
    exact = ours(x)
    ours = ours.to(torch.bfloat16)
    assert ours.scale.dtype == torch.float32
    assert ours.input_scale is not None
    assert ours.input_scale.dtype == torch.float32
    out = ours(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert (out.float() - exact).abs().max() < 0.05


def test_a_copy_and_new_weights_are_used() -> None:
    ours = Int8Linear.of(linear(32, 16))
    x = torch.randn(4, 32)
    before = ours(x)  # packs the weight
    other = copy.deepcopy(ours)
    assert torch.equal(other(x), before)
    for seed, assign in ((1, True), (2, False)):
        other.load_state_dict(Int8Linear.of(linear(32, 16, seed=seed)).state_dict(), assign=assign)
        assert torch.allclose(other(x).double(), in_plain_floats(other, x), atol=1e-4)
    assert torch.equal(ours(x), before)


def test_it_can_be_exported() -> None:
    ours = nn.Sequential(Int8Linear.of(linear(32, 16)))
    x = torch.randn(4, 32)
    program = torch.export.export(ours, (x,))
    assert not any("onednn" in str(node.target) for node in program.graph.nodes)
    assert torch.allclose(program.module()(x), ours(x), atol=1e-5)


def test_low_rank_is_the_product_of_two() -> None:
    layer = LowRankLinear(6, 5, 2)
    x = torch.randn(3, 6)
    wanted = x @ layer.first.weight.T @ layer.second.weight.T + layer.second.bias
    assert torch.allclose(layer(x), wanted, atol=1e-6)
