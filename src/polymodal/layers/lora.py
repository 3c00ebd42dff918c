"""LoRA: a frozen linear layer learns a correction of low rank, W + (alpha / rank) B A.

Source: Hu et al. 2021, arXiv:2106.09685, section 4.1: A starts random, B at zero, so that training starts
at the given model.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from polymodal.errors import ConfigError

ATTENTION = ("*attention.qkv", "*attention.out")  # what the paper adapts


class LoraLinear(nn.Linear):
    """`weight` and `bias` keep their names, so that a plain checkpoint fits beside the new `lora_a` and `lora_b`."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        # On meta: the weights are the given layer's own, nothing is drawn or copied.
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.requires_grad_(False)
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)  # as nn.Linear starts
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias) + self.scale * linear(linear(x, self.lora_a), self.lora_b)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A plain layer that gives the same."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        plain.weight = nn.Parameter(self.weight + self.scale * self.lora_b @ self.lora_a)
        plain.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return plain.train(self.training)


def apply_lora(module: nn.Module, rank: int = 8, alpha: float = 16.0, targets: Sequence[str] = ATTENTION) -> list[str]:
    """Replace linear layers of `module`, in place, by ones that learn a low-rank correction; their weights freeze.

    Other weights stay as they are: freeze them where only the corrections shall learn.

    Args:
        rank: of the correction.
        alpha: its strength; the correction is multiplied by alpha / rank.
        targets: shell patterns of layers' dotted names, `*attention.qkv`, `text_encoder.*`, `*`.

    Returns:
        The names of the layers that were replaced.

    Raises:
        ConfigError: the rank is not positive, or a pattern fits no linear layer.
    """
    if rank < 1:
        raise ConfigError(f"lora.rank must be at least 1, got {rank}")
    found = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear and name}
    for pattern in targets:
        if not any(fnmatchcase(name, pattern) for name in found):
            known = ", ".join(list(found)[:3]) or "none at all"
            raise ConfigError(f'lora.targets: "{pattern}" fits no linear layer; there are {len(found)}, first: {known}')
    chosen = [name for name in found if any(fnmatchcase(name, pattern) for pattern in targets)]
    for name in chosen:
        _replace(module, name, LoraLinear(found[name], rank, alpha))
    return chosen


def merge_lora(module: nn.Module) -> list[str]:
    """Fold every correction into its weight and put plain layers back, in place; the names of these layers."""
    found = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLinear)}
    for name, layer in found.items():
        _replace(module, name, layer.merged())
    return list(found)


def lora_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of the corrections, without the layers that they correct."""
    for layer in module.modules():
        if isinstance(layer, LoraLinear):
            yield layer.lora_a
            yield layer.lora_b


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, new)
