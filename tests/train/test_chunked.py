"""Chunked towers against the same towers at once, in float64: values, gradients, dropout, BatchNorm."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymodal.objectives import info_nce
from polymodal.train.chunked import in_chunks
from polymodal.types import Text


class TwoTowers(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Dropout(dropout), nn.Linear(9, 4))
        self.words = nn.Embedding(11, 4)
        self.drop = nn.Dropout(dropout)
        self.log_scale = nn.Parameter(torch.tensor(math.log(14.0)))

    def embed_image(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.image(pixels)
        return normalize(vectors, dim=-1)

    def embed_text(self, text: Text) -> Tensor:
        words = self.drop(self.words(text.ids)) * text.mask[..., None]
        return normalize(words.sum(1), dim=-1)


def inputs(count: int = 10) -> tuple[Tensor, Text]:
    draw = torch.Generator().manual_seed(3)
    pixels = torch.randn(count, 6, generator=draw, dtype=torch.float64)
    mask = torch.arange(5) < (1 + torch.arange(count) % 5)[:, None]
    return pixels, Text(torch.randint(11, (count, 5), generator=draw), mask)


def gradients(model: TwoTowers, size: int | None) -> tuple[float, dict[str, Tensor]]:
    pixels, text = inputs()
    model.zero_grad()
    image = in_chunks(model.embed_image, pixels, size, model)
    words = in_chunks(model.embed_text, text, size, model)
    loss = info_nce(image, words, model.log_scale.exp())
    loss.backward()
    return loss.item(), {
        name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
    }


@pytest.mark.parametrize("size", [1, 3, 5, 9])
def test_every_gradient_is_that_of_the_big_batch_the_scale_s_too(size: int) -> None:
    torch.manual_seed(0)
    model = TwoTowers().double()
    loss, whole = gradients(model, None)
    chunked_loss, chunked = gradients(model, size)
    assert chunked_loss == pytest.approx(loss, rel=1e-14)
    assert whole["log_scale"].item() != 0
    assert chunked.keys() == whole.keys() == dict(model.named_parameters()).keys()
    for name in whole:
        torch.testing.assert_close(chunked[name], whole[name], rtol=1e-12, atol=1e-14, msg=name)


def test_dropout_repeats_itself_when_a_chunk_is_computed_again() -> None:
    torch.manual_seed(0)
    model = TwoTowers(dropout=0.5).double()
    drawn: list[Tensor] = []
    model.drop.register_forward_hook(lambda module, args, output: drawn.append(output.detach().clone()))
    torch.manual_seed(1)
    gradients(model, 5)
    first, again = drawn[:2], drawn[2:]
    assert len(first) == len(again) == 2
    assert not torch.equal(first[0], first[1])
    for chunk in first:
        assert any(torch.equal(chunk, other) for other in again)


def test_with_dropout_the_gradient_is_that_of_the_same_masks() -> None:
    torch.manual_seed(0)
    model = TwoTowers(dropout=0.5).double()
    pixels, text = inputs()
    torch.manual_seed(1)
    _, chunked = gradients(model, 5)
    # The same chunks, in the same order, without computing anything twice.
    model.zero_grad()
    torch.manual_seed(1)
    image = torch.cat([model.embed_image(part) for part in pixels.split(5)])
    words = [Text(ids, mask) for ids, mask in zip(text.ids.split(5), text.mask.split(5), strict=True)]
    info_nce(image, torch.cat([model.embed_text(part) for part in words]), model.log_scale.exp()).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        torch.testing.assert_close(chunked[name], weight.grad, rtol=1e-12, atol=1e-14, msg=name)


def test_running_statistics_move_once_a_chunk() -> None:
    pixels = inputs()[0]

    def train(run: Callable[[nn.Module], Tensor]) -> nn.BatchNorm1d:
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(6)
        tower = nn.Sequential(norm, nn.Linear(6, 4)).double()
        run(tower).square().sum().backward()
        return norm

    chunked = train(lambda tower: in_chunks(tower, pixels, 5, tower))
    plain = train(lambda tower: torch.cat([tower(part) for part in pixels.split(5)]))
    assert chunked.num_batches_tracked == plain.num_batches_tracked == 2
    assert torch.equal(chunked.running_mean, plain.running_mean)  # type: ignore[arg-type]
    assert torch.equal(chunked.running_var, plain.running_var)  # type: ignore[arg-type]


def test_a_chunk_as_large_as_the_batch_runs_once() -> None:
    runs = []

    def embed(pixels: Tensor) -> Tensor:
        runs.append(len(pixels))
        return layer(pixels)  # type: ignore[no-any-return]

    layer = nn.Linear(6, 2).double()
    in_chunks(embed, inputs()[0], 10, layer).sum().backward()
    assert runs == [10]


def test_a_locked_tower_is_not_computed_twice() -> None:
    runs = []

    def embed(pixels: Tensor) -> Tensor:
        runs.append(len(pixels))
        return layer(pixels)  # type: ignore[no-any-return]

    layer = nn.Linear(6, 2).double().requires_grad_(False)
    assert not in_chunks(embed, inputs()[0], 4, layer).requires_grad
    assert runs == [4, 4, 2]
