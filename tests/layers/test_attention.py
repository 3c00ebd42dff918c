"""Attention against torch's own module, and what masks must do."""

import torch
from torch import nn

from polymodal.layers.attention import Attention, CrossAttention, key_mask

WIDTH, HEADS, ROWS, LENGTH = 12, 3, 2, 5


def theirs(ours: Attention) -> nn.MultiheadAttention:
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    with torch.no_grad():
        module.in_proj_weight.copy_(ours.qkv.weight)
        module.in_proj_bias.copy_(ours.qkv.bias)
        module.out_proj.weight.copy_(ours.out.weight)
        module.out_proj.bias.copy_(ours.out.bias)
    return module


def attention() -> Attention:
    torch.manual_seed(1)
    module = Attention(WIDTH, HEADS)
    nn.init.normal_(module.qkv.bias)
    nn.init.normal_(module.out.bias)
    return module


def drawn(length: int = LENGTH) -> torch.Tensor:
    return torch.randn(ROWS, length, WIDTH, generator=torch.Generator().manual_seed(2))


def test_agrees_with_torch() -> None:
    x = drawn()
    torch.testing.assert_close(attention()(x), theirs(attention())(x, x, x)[0], rtol=1e-5, atol=1e-6)


def test_agrees_with_torch_under_a_padding_mask() -> None:
    x, mask = drawn(), torch.tensor([[True, True, True, False, False], [True, False, True, True, True]])
    expected = theirs(attention())(x, x, x, key_padding_mask=~mask)[0]
    torch.testing.assert_close(attention()(x, key_mask(mask)), expected, rtol=1e-5, atol=1e-6)


def test_agrees_with_torch_under_a_causal_mask() -> None:
    x = drawn()
    hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    expected = theirs(attention())(x, x, x, attn_mask=hidden)[0]
    torch.testing.assert_close(attention()(x, causal=True), expected, rtol=1e-5, atol=1e-6)


def test_cross_attention_agrees_with_torch() -> None:
    torch.manual_seed(3)
    ours = CrossAttention(WIDTH, HEADS)
    nn.init.normal_(ours.kv.bias)
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        module.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.kv.bias]))
        module.out_proj.load_state_dict(ours.out.state_dict())
    x, seen = drawn(2), drawn()
    torch.testing.assert_close(ours(x, seen), module(x, seen, seen)[0], rtol=1e-5, atol=1e-6)


def test_a_row_with_nothing_in_it_gives_numbers_and_spoils_no_other() -> None:
    x, mask = drawn(), torch.tensor([[False] * LENGTH, [True] * LENGTH])
    found = attention()(x, key_mask(mask))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[1], attention()(x)[1], rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    module = Attention(WIDTH, HEADS, dropout=0.5)
    x = drawn()
    assert torch.equal(module.eval()(x), module(x))
    torch.manual_seed(1)
    assert not torch.equal(module.train()(x), module.eval()(x))


def test_the_mask_of_an_empty_row_hides_nothing() -> None:
    """torch's CPU kernels give zeros for a row that sees nothing, others not-a-number: no kernel gets such a row."""
    mask = key_mask(torch.tensor([[False, False], [True, False]]))
    assert mask[:, 0, 0].tolist() == [[True, True], [True, False]]


def test_weights_are_those_that_the_output_is_mixed_with() -> None:
    x, mask = drawn(), torch.tensor([[True, True, True, False, False], [True, False, True, True, True]])
    module = attention()
    expected = theirs(module)(x, x, x, key_padding_mask=~mask, average_attn_weights=False)[1]
    torch.testing.assert_close(module.weights(x, key_mask(mask)), expected, rtol=1e-5, atol=1e-6)


def test_cross_weights_mix_the_values_to_the_output() -> None:
    torch.manual_seed(3)
    module, x, seen = CrossAttention(WIDTH, HEADS), drawn(2), drawn()
    values = module.kv(seen).chunk(2, dim=-1)[1].unflatten(-1, (HEADS, -1)).transpose(1, 2)
    mixed = module.out((module.weights(x, seen) @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, module(x, seen), rtol=1e-5, atol=1e-6)
