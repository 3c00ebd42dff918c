"""SmoothQuant: outliers of activations are moved into the weights that read them, before both become integers.

Source: Xiao et al. 2022, arXiv:2211.10438, equation 4: s_j = max|X_j|^alpha / max|W_j|^(1 - alpha). The division of the
input by s is folded into the LayerNorm before it, and the columns of the weights are multiplied by s, so that the model
says the same. That holds only where the LayerNorm feeds nothing else: in the pre-norm blocks, not behind a post-norm,
whose output is the next residual too.
Shapes: I inputs of a linear layer.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from polymodal.layers.transformer import Block


def smoothable(model: nn.Module) -> Iterator[tuple[nn.LayerNorm, nn.Linear]]:
    """Every LayerNorm whose output goes into one linear layer and nowhere else, and that layer."""
    for block in model.modules():
        if isinstance(block, Block) and not block.post:
            for norm, linear in ((block.norm1, block.attention.qkv), (block.norm2, block.mlp.fc1)):
                if isinstance(linear, nn.Linear):
                    yield norm, linear


@torch.no_grad()
def smooth(model: nn.Module, alpha: float, passes: Iterable[object]) -> int:
    """Smooth the model in place; how many layers there were to smooth.

    Args:
        alpha: 0 to 1, how much of the difficulty moves from the activations into the weights.
        passes: `model` runs on one batch with every step of the iterable.
    """
    pairs = list(smoothable(model))
    greatest: list[Tensor] = [torch.zeros(linear.in_features, device=linear.weight.device) for _, linear in pairs]
    hooks = [
        linear.register_forward_pre_hook(lambda _, given, seen=seen: _note(seen, given[0]))
        for (_, linear), seen in zip(pairs, greatest, strict=True)
    ]
    try:
        for _ in passes:
            pass
    finally:
        for hook in hooks:
            hook.remove()
    for (norm, linear), seen in zip(pairs, greatest, strict=True):
        _fold(norm, linear, seen, alpha)
    return len(pairs)


def _note(seen: Tensor, given: Tensor) -> None:
    torch.maximum(seen, given.abs().flatten(0, -2).amax(0).float(), out=seen)


def _fold(norm: nn.LayerNorm, linear: nn.Linear, seen: Tensor, alpha: float) -> None:
    weight = linear.weight.abs().amax(0)
    # A channel that is always 0, or that nobody reads, stays as it is.
    usable = (seen > 0) & (weight > 0)
    scale = torch.where(usable, seen.clamp(min=1e-5) ** alpha / weight.clamp(min=1e-5) ** (1 - alpha), 1.0)
    norm.weight.div_(scale)
    norm.bias.div_(scale)
    linear.weight.mul_(scale)
