"""Alignment by an adversary: a discriminator tries to tell from which input a vector is, and they learn to fool it.

Source: Ganin et al. 2016, arXiv:1505.07818, section 4 (gradient reversal), with inputs in the place of domains.
Every input goes into one common space; the discriminator reads it there behind a layer that turns the gradient round; a
fusion of vectors joins what is there. Train on `modality_loss` beside the task: one optimizer serves both players, for
the reversal gives each its own sign.

Shapes: B rows; M inputs; D width.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from polymodal.config import Config
from polymodal.fusion.attention_pool import AttentionPoolConfig
from polymodal.fusion.gated import GatedConfig
from polymodal.fusion.late import LateConfig
from polymodal.fusion.low_rank import LowRankConfig
from polymodal.fusion.project import Project, at_least_two
from polymodal.fusion.tensor import TensorConfig
from polymodal.types import Fused, Tokens

VectorFusionConfig = Annotated[
    LateConfig | AttentionPoolConfig | GatedConfig | TensorConfig | LowRankConfig, Field(discriminator="kind")
]


class AlignedConfig(Config):
    kind: Literal["aligned"] = "aligned"
    inner: VectorFusionConfig = LateConfig()
    common: int = Field(128, ge=1, le=2**16)  # width of the space in which the inputs shall look alike
    hidden: int = Field(128, ge=1)  # of the discriminator
    strength: float = Field(0.1, gt=0)  # of the turned gradient; near 1 the two players circle and never settle

    def build(self, widths: Mapping[str, int]) -> "Aligned":
        return Aligned(self, widths)


class Aligned(nn.Module):
    def __init__(self, config: AlignedConfig, widths: Mapping[str, int]) -> None:
        """Raises ConfigError: fewer than two inputs."""
        super().__init__()
        at_least_two("aligned", widths)
        self.config = config
        self.project = Project(widths, config.common)
        self.inner = config.inner.build(dict.fromkeys(widths, config.common))
        self.width, self.widths = self.inner.width, dict(widths)
        self.discriminator = nn.Sequential(
            nn.Linear(config.common, config.hidden), nn.GELU(), nn.Linear(config.hidden, len(widths))
        )

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """Map "modality_logits": (B, M, M), what the discriminator says of each input's vector; in training always.

        The rest of the maps is that of the inner fusion.
        """
        vectors = self.project.vectors(tokens)
        aligned = {
            name: tokens[name]._replace(pooled=vector)
            for name, vector in zip(self.widths, vectors.unbind(1), strict=True)
        }
        pooled, _, looks = self.inner(aligned, present, maps=maps)
        if self.training or maps:
            reversed_vectors = reverse_gradient(vectors, self.config.strength)
            looks = looks | {"modality_logits": self.discriminator(reversed_vectors)}
        return Fused(pooled, dict(tokens), looks)


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """`x`, up to rounding; its gradient comes back times -strength."""
    turned = -strength * x
    return turned + (x - turned).detach()


def modality_loss(logits: Tensor, present: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of telling the inputs apart, in nats; log(M) is what a fooled discriminator gives.

    Args:
        logits: (B, M, M), the map "modality_logits".
        present: (B,) bool, by the input's name; absent inputs are not asked about, and without any the loss is 0.
    """
    there = torch.stack(list(present.values()), 1)
    inputs = torch.arange(there.shape[1], device=logits.device).expand(there.shape)
    losses = cross_entropy(logits.transpose(1, 2), inputs, reduction="none")  # (B, M)
    return (losses * there).sum() / there.sum().clamp(min=1)
