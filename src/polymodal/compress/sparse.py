"""Single weights at zero: which, and that they stay so.

Shapes: O outputs of a layer; I inputs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from polymodal.compress.units import running

WITH_ZEROS = (nn.Linear, nn.Conv1d, nn.Conv2d)
SPARSE = 0.01  # share of zeros from which a weight counts as pruned


@torch.no_grad()
def put_zeros(weights: Sequence[nn.Parameter], share: float, scope: Literal["each", "model"] = "each") -> None:
    """Set the smallest weights to zero, in place: so many of each, or of all together."""
    for part in [[weight] for weight in weights] if scope == "each" else [list(weights)]:
        sizes = torch.cat([weight.detach().abs().flatten() for weight in part])
        count = round(share * len(sizes))
        if not count:
            continue
        limit = sizes.kthvalue(count).values
        zero = sizes < limit
        ties = (sizes == limit).nonzero()[:, 0]
        zero[ties[: count - int(zero.sum())]] = True
        for weight, mask in zip(part, zero.split([weight.numel() for weight in part]), strict=True):
            weight.data = weight.data.masked_fill(mask.view_as(weight), 0)


def two_of_four(weight: Tensor) -> Tensor:
    """The weight (O, I), of each 4 neighbors of a row the 2 of least magnitude at zero (the first of equal ones).

    Source: Mishra et al. 2021, arXiv:2104.08378, section 3.1.
    """
    fours = weight.unflatten(1, (-1, 4))
    smallest = fours.abs().argsort(dim=-1, stable=True)[..., :2]
    zeroed: Tensor = fours.scatter(-1, smallest, 0).flatten(1)
    return zeroed


@contextmanager
def hold_zeros(model: nn.Module) -> Iterator[int]:
    """While it lasts, weights that were pruned to zero get no gradient; gives how many these are.

    An optimizer that starts inside leaves them at exactly 0: without gradients it has no momentum for them, and weight
    decay of 0 is 0. Weights count as pruned in matrices that are zero in 1 % of their places or more, yet not in all.
    """
    hooks, held = [], 0
    for weight in matrices(model).values():
        zero = weight.detach() == 0
        if SPARSE <= zero.float().mean() < 1 and weight.requires_grad:
            hooks.append(weight.register_hook(lambda gradient, zero=zero: gradient.masked_fill(zero, 0)))
            held += int(zero.sum())
    try:
        yield held
    finally:
        for hook in hooks:
            hook.remove()


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of linear layers and convolutions by the layer's name."""
    layers = {name: module for name, module in running(model) if isinstance(module, WITH_ZEROS)}
    return {name: weight for name, layer in layers.items() if isinstance(weight := layer.weight, nn.Parameter)}
