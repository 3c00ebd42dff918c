"""The stack against torch's encoder layers, its start values, and recomputation."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from polymodal.layers.transformer import Block, Transformer, initialize_as_clip

WIDTH, HEADS = 12, 3


def drawn() -> Tensor:
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_agrees_with_torch(norm: Literal["pre", "post"]) -> None:
    torch.manual_seed(4)
    ours = Block(WIDTH, HEADS, 20, "gelu", 1e-5, norm).eval()
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm == "pre"
    ).eval()
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.out.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    state = ours.state_dict()
    theirs.load_state_dict({a + part: state[b + part] for a, b in names.items() for part in ("weight", "bias")})
    x = drawn()
    torch.testing.assert_close(ours(x, None, False), theirs(x), rtol=1e-5, atol=1e-6)


def test_recomputation_gives_the_same_gradients_with_dropout_too() -> None:
    def gradient(checkpoint: bool) -> Tensor:
        torch.manual_seed(5)
        stack = Transformer(2, WIDTH, HEADS, 20, "gelu", 1e-5, dropout=0.3).train()
        stack.checkpoint = checkpoint
        x = drawn().requires_grad_()
        torch.manual_seed(6)
        stack(x).square().sum().backward()
        assert x.grad is not None
        return x.grad

    torch.testing.assert_close(gradient(True), gradient(False))


def test_a_causal_stack_does_not_look_ahead() -> None:
    torch.manual_seed(7)
    stack = Transformer(2, WIDTH, HEADS, 20, "gelu", 1e-5, causal=True).eval()
    x = drawn()
    later = x.clone()
    later[:, 3:] = 0
    torch.testing.assert_close(stack(later)[:, :3], stack(x)[:, :3])
    assert not torch.allclose(stack(later)[:, 3:], stack(x)[:, 3:])


def test_start_values_have_the_spread_of_clip() -> None:
    """openai/CLIP, clip/model.py, initialize_parameters, for width 256 and 6 layers."""
    torch.manual_seed(8)
    width, layers = 256, 6
    stack = Transformer(layers, width, 4, 4 * width, "quick_gelu", 1e-5)
    initialize_as_clip(stack)
    block = stack[0]
    assert isinstance(block, Block)
    expected = {
        block.attention.qkv.weight: 256**-0.5,
        block.attention.out.weight: 256**-0.5 * 12**-0.5,
        block.mlp.fc1.weight: 512**-0.5,
        block.mlp.fc2.weight: 256**-0.5 * 12**-0.5,
    }
    for weight, spread in expected.items():
        assert weight.std().item() == pytest.approx(spread, rel=0.02)
        assert abs(weight.mean().item()) < spread / 50
