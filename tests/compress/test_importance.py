"""Importance against the same sums in plain floats, on nets small enough to differentiate by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from polymodal.compress.importance import by_activation, by_magnitude, by_taylor
from polymodal.compress.units import Group, Slice, Stack, find_channels, find_heads, find_stacks, linear
from polymodal.errors import DataError
from polymodal.layers.mlp import Mlp
from tests import tiny
from tests.compress.models import clip

INPUTS = [[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]]
UP = [[0.5, 1.0], [-1.0, 0.25], [2.0, -0.5]]  # 3 channels
UP_BIAS = [0.1, -0.2, 0.3]
DOWN = [[1.0, -2.0, 0.5]]
DOWN_BIAS = [0.05]


def tiny_mlp() -> Mlp:
    mlp = Mlp(2, 3, "relu")
    for parameter, values in zip(mlp.parameters(), (UP, UP_BIAS, DOWN, DOWN_BIAS), strict=True):
        parameter.data = torch.tensor(values)
    mlp.fc2.out_features = 1
    return mlp.eval()


def channels() -> Group:
    each = torch.arange(3)[:, None]
    return Group("fc1", "channels", (Slice("fc1", 0, each), Slice("fc2", 1, each)))


def hidden(x: list[float]) -> list[float]:
    return [max(0.0, sum(w * v for w, v in zip(row, x, strict=True)) + b) for row, b in zip(UP, UP_BIAS, strict=True)]


def test_taylor_is_the_sum_of_weight_times_gradient() -> None:
    """L = (sum of y over the batch's rows)², two batches: the first two inputs, and the last."""
    mlp = tiny_mlp()
    batches = [INPUTS[:2], INPUTS[2:]]
    losses = (mlp(torch.tensor(batch)).sum() ** 2 for batch in batches)
    expected = [0.0, 0.0, 0.0]
    for batch in batches:
        acts = [hidden(x) for x in batch]
        total = sum(sum(d * a for d, a in zip(DOWN[0], act, strict=True)) + DOWN_BIAS[0] for act in acts)
        for c in range(3):
            on = [1.0 if act[c] > 0 else 0.0 for act in acts]
            out = abs(DOWN[0][c] * 2 * total * sum(act[c] for act in acts))
            bias = abs(UP_BIAS[c] * 2 * total * DOWN[0][c] * sum(on))
            into = sum(
                abs(UP[c][i] * 2 * total * DOWN[0][c] * sum(o * x[i] for o, x in zip(on, batch, strict=True)))
                for i in range(2)
            )
            expected[c] += (out + bias + into) / 2
    assert by_taylor(mlp, [channels()], [], losses)["fc1"].tolist() == pytest.approx(expected, rel=1e-5)


def test_activation_is_the_mean_absolute_activation_times_the_outgoing_norm() -> None:
    mlp = tiny_mlp()
    expected = [sum(abs(hidden(x)[c]) for x in INPUTS) / 3 * abs(DOWN[0][c]) for c in range(3)]
    passes = (mlp(torch.tensor(batch)) for batch in (INPUTS[:2], INPUTS[2:]))
    assert by_activation(mlp, [channels()], [], passes)["fc1"].tolist() == pytest.approx(expected, rel=1e-6)


def test_magnitude_is_the_norm_of_all_that_a_channel_owns() -> None:
    expected = [math.sqrt(sum(w * w for w in UP[c]) + UP_BIAS[c] ** 2 + DOWN[0][c] ** 2) for c in range(3)]
    assert by_magnitude(tiny_mlp(), [channels()], [])["fc1"].tolist() == pytest.approx(expected, rel=1e-6)


class Halves(nn.Module):
    """Two layers: one turns its input by 60 degrees, one leaves it."""

    def __init__(self) -> None:
        super().__init__()
        turn, keep = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        half, rest = 0.5, math.sqrt(0.75)
        turn.weight.data = torch.tensor([[half, -rest], [rest, half]])
        keep.weight.data = torch.eye(2) * 3
        self.layers = nn.ModuleList([turn, keep])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_layer_matters_as_much_as_it_turns_its_input() -> None:
    model, stack = Halves(), Stack("layers", ("layers",), 0, 2)
    scores = by_activation(model, [], [stack], (model(torch.tensor(x)) for x in INPUTS))
    assert scores["layers"].tolist() == pytest.approx([0.5, 0.0], abs=1e-6)


def test_the_gradient_of_a_gate_tells_whole_heads_apart() -> None:
    """A head that the output does not read matters less, and what flows out of it is nothing."""
    model, call = clip()
    group = find_heads(model)[0]
    with torch.no_grad():
        linear(model, f"{group.name}.out").weight[:, 8:] = 0  # head 1 of 2
    taylor = by_taylor(model, [group], [], (call(model)[:5].sum() for _ in range(2)))[group.name]
    activation = by_activation(model, [group], [], (call(model) for _ in range(2)))[group.name]
    assert taylor[1] < taylor[0]
    assert activation[1] == 0 < activation[0]


def test_nothing_of_the_model_changes() -> None:
    model, call = clip()
    model.requires_grad_(False)
    model.text_encoder.requires_grad_(True)
    before = {name: (weight.clone(), weight.requires_grad) for name, weight in model.named_parameters()}
    groups, stacks = find_channels(model) + find_heads(model), find_stacks(model)
    scores = by_taylor(model, groups, stacks, (call(model)[:5].sum() for _ in range(2)))
    for group in groups:
        assert scores[group.name].shape == (group.size,)
        assert (scores[group.name] > 0).any() or "text" in group.name  # only vectors of pictures are summed
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == {
        name: wanted for name, (_, wanted) in before.items()
    }
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(weight, before[name][0]) for name, weight in model.named_parameters())


def test_no_batch_and_a_loss_that_is_no_number_are_refused() -> None:
    model = tiny.clip()
    groups = find_channels(model)
    with pytest.raises(DataError, match="importance: wanted at least one batch of calibration rows, got none"):
        by_taylor(model, groups, [], [])
    with pytest.raises(DataError, match="importance: wanted at least one batch"):
        by_activation(model, groups, [], [])
    with pytest.raises(DataError, match="taylor importance: the loss of batch 0 is nan; look at its rows"):
        by_taylor(model, groups, [], [torch.tensor(math.nan)])
