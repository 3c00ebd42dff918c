"""Large batches in small memory: the towers run chunk by chunk, the loss sees all vectors at once.

Only the chunks' inputs and vectors are kept for the backward pass; when it comes to a chunk, that chunk is computed
again. It has the memory profile of GradCache (Gao et al. 2021, arXiv:2101.06983), but the chain from loss to weights is
autograd's own, so every gradient, the temperature's too, is that of the big batch by construction.

BatchNorm is the exception, as in every scheme of this kind: it normalizes by the statistics of a chunk.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from polymodal.types import Text

Inputs = TypeVar("Inputs", Tensor, Text)


def in_chunks(embed: Callable[[Inputs], Tensor], inputs: Inputs, size: int | None, module: nn.Module) -> Tensor:
    """`embed(inputs)`, (B, D), computed for `size` rows at a time.

    Args:
        embed: rows in, vectors (B, D) out. Dropout repeats itself exactly when a chunk is computed again.
        inputs: (B, ...) pixels or texts.
        size: rows of a chunk; None or B at the most: all at once, nothing is computed twice.
        module: what `embed` runs; its buffers (BatchNorm's running statistics) move once a chunk, not twice.
    """
    count = len(inputs.ids) if isinstance(inputs, Text) else len(inputs)
    if size is None or size >= count:
        return embed(inputs)
    if not torch.is_grad_enabled() or not any(weight.requires_grad for weight in module.parameters()):
        return torch.cat([embed(chunk) for chunk in _split(inputs, size)])

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _buffers_as_they_were(module)

    return torch.cat(
        [checkpoint(embed, chunk, use_reentrant=False, context_fn=contexts) for chunk in _split(inputs, size)]
    )


def _split(inputs: Inputs, size: int) -> Iterator[Inputs]:
    if isinstance(inputs, Text):
        for ids, mask in zip(inputs.ids.split(size), inputs.mask.split(size), strict=True):
            yield Text(ids, mask)
    else:
        yield from inputs.split(size)


@contextmanager
def _buffers_as_they_were(module: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
