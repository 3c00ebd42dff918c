"""Vectors of all processes, with gradients.

Every process computes the loss over the pairs of all of them. DDP then averages the weights' gradients; for that mean
to be the gradient of one process with the whole batch, the backward pass of the gathering must be the sum over
processes. (Giving back only the local slice, as some codes do, makes the towers' gradients 1 / W of the true ones while
the temperature's stays whole.)

Shapes: W processes; b rows of each; B = W b.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

Item = TypeVar("Item")


def world_size() -> int:
    """Number of processes, W; 1 when there is no process group."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def gather(local: Tensor) -> Tensor:
    """(B, ...) of all processes, in the order of their ranks, of (b, ...) of each; b must be the same everywhere.

    Gradients flow back to the process they belong to.
    """
    if world_size() == 1:
        return local
    return _Gather.apply(local) if local.requires_grad else _gather(local)  # type: ignore[no-untyped-call]


def gather_lists(local: list[Item]) -> list[Item]:
    """The items of all processes, in the order of their ranks."""
    if world_size() == 1:
        return local
    everyone: list[list[Item] | None] = [None] * world_size()
    distributed.all_gather_object(everyone, local)
    return [item for one in everyone for item in one or ()]


def _gather(local: Tensor) -> Tensor:
    gathered = local.new_empty(world_size() * len(local), *local.shape[1:])
    distributed.all_gather(list(gathered.chunk(world_size())), local.contiguous())
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.count = len(local)
        return _gather(local)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        start = distributed.get_rank() * ctx.count
        return total[start : start + ctx.count]
