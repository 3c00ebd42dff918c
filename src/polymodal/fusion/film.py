"""Feature-wise linear modulation: one input scales and shifts the features of the others.

Source: Perez et al. 2018, arXiv:1709.07871, section 2: y = γ(c) x + β(c). Here γ = 1 + Δγ, and the layer that gives Δγ
and β starts at zero, so the others start as they are.

Shapes: B rows; M - 1 inputs that are conditioned; L tokens; D width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.fusion.project import Project, at_least_two, average_weights, known_input, presence
from polymodal.types import Fused, Tokens


class FilmConfig(Config):
    kind: Literal["film"] = "film"
    condition: str | None = None  # the input that conditions the others; None: the last
    width: int = Field(256, ge=1, le=2**16)

    def build(self, widths: Mapping[str, int]) -> "Film":
        return Film(self, widths)


class Film(nn.Module):
    """The joint state is the mean of the conditioned inputs that a row has.

    A row without the condition leaves them as they are.
    """

    def __init__(self, config: FilmConfig, widths: Mapping[str, int]) -> None:
        """Raises ConfigError: fewer than two inputs, or `condition` is none of them."""
        super().__init__()
        at_least_two("film", widths)
        self.config = config
        self.condition = config.condition or list(widths)[-1]
        known_input("film", "condition", self.condition, widths)
        self.others = [name for name in widths if name != self.condition]
        self.width = config.width
        self.widths = dict.fromkeys(self.others, config.width) | {self.condition: widths[self.condition]}
        self.project = Project({name: widths[name] for name in self.others}, config.width)
        outputs = 2 * len(self.others) * config.width
        last = nn.Linear(config.width, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.generator = nn.Sequential(nn.Linear(widths[self.condition], config.width), nn.GELU(), last)

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """Maps "scale" and "shift": (B, M - 1, D), in the order of the conditioned inputs."""
        scale, shift = self._modulation(tokens[self.condition].pooled, present[self.condition])
        vectors = self.project.vectors(tokens) * scale + shift
        weights = average_weights(presence({name: present[name] for name in self.others}).to(vectors.dtype))
        pooled = (weights[:, :, None] * vectors).sum(1)
        states = dict(tokens)
        for place, (name, sequence) in enumerate(self.project.sequences(tokens).items()):
            sequence = sequence * scale[:, place, None] + shift[:, place, None]
            states[name] = Tokens(sequence, tokens[name].mask, vectors[:, place])
        return Fused(pooled, states, {"scale": scale, "shift": shift} if maps else {})

    def _modulation(self, condition: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        change = self.generator(condition).unflatten(1, (2, len(self.others), self.width))
        # With none of the others there, the learned condition would be all that is left to say anything.
        change = torch.where(present[:, None, None, None], change, 0.0)
        return 1 + change[:, 0], change[:, 1]
