"""Inputs of unequal widths in one width, and which of them a row has.

An average αx + (1 - α)y of vectors of different widths has no meaning; every fusion that adds its inputs up projects
them first.

Shapes: B rows; M inputs; L tokens; D width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError, ShapeError
from polymodal.layers.named import module_name
from polymodal.types import Tokens


class Project(nn.Module):
    """A linear map for each input."""

    def __init__(self, widths: Mapping[str, int], width: int, bias: bool = True) -> None:
        super().__init__()
        self.widths = dict(widths)
        self.linears = nn.ModuleDict(
            {module_name(name): nn.Linear(given, width, bias) for name, given in widths.items()}
        )

    def vectors(self, tokens: Mapping[str, Tokens]) -> Tensor:
        """(B, M, D), in the order of the inputs."""
        return torch.stack([self.linears[module_name(name)](tokens[name].pooled) for name in self.widths], 1)

    def sequences(self, tokens: Mapping[str, Tokens]) -> dict[str, Tensor]:
        """(B, L, D) of each input.

        Raises:
            ShapeError: an input's tokens have another width than its vector.
        """
        for name, width in self.widths.items():
            got = tokens[name].sequence.shape[-1]
            if got != width:
                raise ShapeError(
                    f'fusion: tokens of "{name}" must be as wide as its vector ({width}), got {got}; '
                    "choose an encoder that reads one level, or a fusion of vectors such as late or gated"
                )
        return {name: self.linears[module_name(name)](tokens[name].sequence) for name in self.widths}


def presence(present: Mapping[str, Tensor]) -> Tensor:
    """(B, M) bool: which inputs a row's weights go to; all of them in a row that has none, for nothing has no mean."""
    there = torch.stack(list(present.values()), 1)
    return there | ~there.any(1, keepdim=True)


def average_weights(given: Tensor) -> Tensor:
    """(B, M), at least 0, renormalized so that each row adds up to 1."""
    return given / given.sum(1, keepdim=True)


def at_least_two(kind: str, widths: Mapping[str, int]) -> None:
    """Raises ConfigError: a fusion in which inputs meet was given one."""
    if len(widths) < 2:
        raise ConfigError(
            f'fusion "{kind}" must have at least 2 inputs, got {", ".join(widths) or "none"}; for one input use "late"'
        )


def known_input(kind: str, field: str, name: str, widths: Mapping[str, int]) -> None:
    """Raises ConfigError: a setting names an input that the model does not have."""
    if name not in widths:
        raise ConfigError(f'fusion "{kind}": {field} must be one of {", ".join(widths)}, got "{name}"')
