"""How much a model would miss each channel, head or layer, judged on calibration rows.

- taylor: sum of |w · dL/dw| over the unit's weights, the loss L being that of a batch, and the mean over batches. It is
  the first-order change of the loss when a weight becomes zero (Molchanov et al. 2019, arXiv:1906.10771, section 3),
  with the absolute value in the place of their square, so that a unit is not ruled by its one largest weight.
- activation: of a channel, its mean absolute activation over rows and tokens, times the norm of the weights that it
  goes out through; of a head, the sum over its channels. It needs no labels. (For single weights, that is the idea of
  Wanda, Sun et al. 2023, arXiv:2306.11695, section 3; here for a whole column.) Of a layer, 1 - cosine of what goes in
  and what comes out, the mean over tokens ("block influence", Men et al. 2024, arXiv:2403.03853, section 3).
- magnitude: the norm of the unit's weights. It needs no rows at all.

Shapes: U units of a group; N layers of a stack; D width.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from polymodal.compress.units import Group, Slice, Stack, linear
from polymodal.errors import DataError

Scores = Mapping[str, Tensor]  # by the name of a group (U,) or of a stack (N,): the more, the more it would be missed


def by_taylor(
    model: nn.Module, groups: Sequence[Group], stacks: Sequence[Stack], losses: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Importance of every unit and layer by the gradient of the loss.

    Args:
        losses: each (), of one batch, worked out by `model` as the iterable is gone through.

    Raises:
        DataError: there is no batch, or a loss is not a finite number.
    """
    linears = {part.linear for group in groups for part in group.slices}
    layers = {layer for stack in stacks for parts in _layers(stack) for layer in parts}
    weights = [weight for name in linears | layers for weight in model.get_submodule(name).parameters()]
    felt = {id(weight): torch.zeros_like(weight) for weight in weights}
    batches = 0
    with _learning(model, weights):
        for loss in losses:
            if not bool(loss.isfinite()):
                raise DataError(f"taylor importance: the loss of batch {batches} is {loss.item()}; look at its rows")
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:  # a part that these rows do not reach, such as a pooler that nobody reads
                    felt[id(weight)] += (weight.detach() * gradient).abs()
            batches += 1
    _check(batches)
    total = {id(weight): felt[id(weight)] / batches for weight in weights}
    scores = {group.name: _of_units(model, group, total) for group in groups}
    return scores | {stack.name: _of_layers(model, stack, total) for stack in stacks}


@torch.no_grad()
def by_activation(
    model: nn.Module, groups: Sequence[Group], stacks: Sequence[Stack], passes: Iterable[Any]
) -> dict[str, Tensor]:
    """Importance of every unit and layer by what flows through it; padding counts as a token like others.

    Args:
        passes: `model` runs on one batch with every step of the iterable.

    Raises:
        DataError: there is no batch.
    """
    outgoing = {part.linear for group in groups for part in group.slices if part.dim == 1}
    means = {name: _Mean() for name in outgoing}
    turns = {layer: _Mean() for stack in stacks for parts in _layers(stack) for layer in parts}
    hooks = [_watch_input(model.get_submodule(name), mean) for name, mean in means.items()]
    hooks += [_watch_turn(model.get_submodule(name), mean) for name, mean in turns.items()]
    try:
        batches = sum(1 for _ in passes)
    finally:
        for hook in hooks:
            hook.remove()
    _check(batches)
    scores = {}
    for group in groups:
        parts = [_flow(model, part, means[part.linear]) for part in group.slices if part.dim == 1]
        scores[group.name] = torch.stack(parts).sum(0)
    for stack in stacks:
        scores[stack.name] = torch.stack([sum_of([turns[name].value() for name in parts]) for parts in _layers(stack)])
    return scores


@torch.no_grad()
def by_magnitude(model: nn.Module, groups: Sequence[Group], stacks: Sequence[Stack]) -> dict[str, Tensor]:
    """Importance of every unit and layer by the Euclidean norm of its weights."""
    parts = {part.linear for group in groups for part in group.slices}
    parts |= {layer for stack in stacks for names in _layers(stack) for layer in names}
    squares = {id(weight): weight**2 for name in parts for weight in model.get_submodule(name).parameters()}
    scores = {group.name: _of_units(model, group, squares).sqrt() for group in groups}
    return scores | {stack.name: _of_layers(model, stack, squares).sqrt() for stack in stacks}


def sum_of(values: Sequence[Tensor]) -> Tensor:
    """Their sum, ()."""
    return torch.stack(list(values)).sum()


class _Mean:
    """The mean over the first dimension of all that was added."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def add(self, values: Tensor) -> None:
        summed = values.double().sum(0)
        self.total = summed if self.total is None else self.total + summed
        self.count += len(values)

    def value(self) -> Tensor:
        """0 where nothing came by: nobody would miss it."""
        return torch.zeros(()) if self.total is None else (self.total / self.count).float()


@contextmanager
def _learning(model: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """These weights and no others want gradients."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, wanted in before.items():
            parameter.requires_grad_(wanted)


def _of_units(model: nn.Module, group: Group, each: Mapping[int, Tensor]) -> Tensor:
    """(U,): what stands in `each` by a weight's id, summed over what each unit owns."""
    total = torch.zeros(group.size)
    for name, dim, places in group.slices:
        layer = linear(model, name)
        sums = each[id(layer.weight)].sum(1 - dim)
        if dim == 0 and layer.bias is not None:
            sums = sums + each[id(layer.bias)]
        total += sums.cpu()[places].sum(1)
    return total


def _of_layers(model: nn.Module, stack: Stack, each: Mapping[int, Tensor]) -> Tensor:
    """(N,): what stands in `each`, summed over all weights of each layer."""
    return torch.stack(
        [
            sum_of([each[id(weight)].sum() for name in parts for weight in model.get_submodule(name).parameters()])
            for parts in _layers(stack)
        ]
    )


def _layers(stack: Stack) -> list[list[str]]:
    """Names of the modules that make up each layer that can go."""
    return [[f"{name}.{number}" for name in stack.lists] for number in range(stack.first, stack.first + stack.size)]


def _flow(model: nn.Module, part: Slice, mean: _Mean) -> Tensor:
    weight = linear(model, part.linear).weight
    channels: Tensor = mean.value().to(weight.device) * weight.norm(dim=0)
    return channels.cpu()[part.places].sum(1)


def _watch_input(module: nn.Module, mean: _Mean) -> Any:
    def look(_: nn.Module, given: tuple[Any, ...]) -> None:
        mean.add(given[0].abs().flatten(0, -2))

    return module.register_forward_pre_hook(look)


def _watch_turn(module: nn.Module, mean: _Mean) -> Any:
    def look(_: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        pairs = zip(given[0], out, strict=True) if isinstance(out, list) else [(given[0], out)]
        for before, after in pairs:
            mean.add(1 - cosine_similarity(before, after, dim=-1).flatten())

    return module.register_forward_hook(look)


def _check(batches: int) -> None:
    if not batches:
        raise DataError("importance: wanted at least one batch of calibration rows, got none; give --data a table")
