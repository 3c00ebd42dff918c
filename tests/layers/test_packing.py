"""Padding is left out in training, and nothing but the time shows it."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from polymodal.fusion.coattention import CoattentionConfig
from polymodal.layers.packing import Layout
from polymodal.layers.transformer import Transformer
from polymodal.types import Tokens

LENGTHS = (7, 2, 1, 4)


def mask(*lengths: int) -> Tensor:
    return torch.arange(7) < torch.tensor(lengths or LENGTHS)[:, None]


def tokens(width: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(len(LENGTHS), 7, width, generator=torch.Generator().manual_seed(seed))


def stack(checkpoint: bool = False) -> Transformer:
    torch.manual_seed(1)
    made = Transformer(2, 8, 2, 16, "gelu", 1e-12, norm="post")
    made.checkpoint = checkpoint
    return made


def test_there_and_back() -> None:
    layout = Layout.of(mask(), pack=True)
    x = tokens().requires_grad_()
    packed = layout.pack(x)
    assert torch.equal(packed, torch.cat([row[:length] for row, length in zip(x, LENGTHS, strict=True)]))
    padded = layout.pad(packed)
    assert torch.equal(padded, x * mask()[:, :, None])
    (padded * tokens(seed=2)).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, tokens(seed=2) * mask()[:, :, None])


@pytest.mark.parametrize(("lengths", "masked"), [((7, 7, 7, 7), False), ((7, 7, 7, 6), True), ((0, 0, 0, 0), True)])
def test_what_is_not_worth_it_stays_as_it_is(lengths: tuple[int, ...], masked: bool) -> None:
    layout = Layout.of(mask(*lengths), pack=True)
    assert layout.places is None
    assert (layout.keys is not None) == masked
    x = tokens()
    assert layout.pack(x) is x
    assert layout.pad(x) is x
    assert Layout.of(mask(), pack=False).places is None


def gradients(module: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_stack_says_and_learns_the_same(checkpoint: bool) -> None:
    there, weight = mask(), tokens(seed=3) * mask()[:, :, None]
    packed, plain = stack(checkpoint).train(), stack().eval()
    left, right = packed(tokens(), there), plain(tokens(), there)
    torch.testing.assert_close(left[there], right[there], rtol=1e-5, atol=1e-6)
    assert (left[~there] == 0).all()
    for one, other in zip(
        gradients(packed, (left * weight).sum()), gradients(plain, (right * weight).sum()), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_two_streams_say_and_learn_the_same() -> None:
    torch.manual_seed(1)
    made = CoattentionConfig(width=8, heads=2, first={"heads": 2}, second={"heads": 2}).build({"a": 8, "b": 8})
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    masks = {"a": mask(), "b": mask(3, 7, 2, 1)}
    given = {name: Tokens(tokens(seed=n), masks[name], tokens()[:, 0]) for n, name in enumerate(masks)}
    found = []
    for training in (True, False):
        made.train(training)
        fused = made(given, {})
        parts = [fused.pooled, *(fused.tokens[name].sequence[masks[name]] for name in masks)]
        found.append([*parts, *gradients(made, torch.stack([(part**2).sum() for part in parts]).sum())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_padding_costs_nothing_but_attention() -> None:
    def work(module: Transformer, there: Tensor) -> int:
        with FlopCounterMode(display=False) as counter:
            module(tokens(), there)
        return int(counter.get_total_flops())

    # A token of a block: 2 x (3 + 1 + 2 x 2) x 8 x 8 in linear layers.
    layers, real = 2 * 2 * 8 * 8 * 8, sum(LENGTHS)
    attention = work(stack().eval(), mask()) - layers * mask().numel()
    assert work(stack().train(), mask()) == layers * real + attention
