"""How the losses of several targets become one.

Each way is a module: `forward(losses, shared)` gives the loss to differentiate, and what a log wants to know.
`losses` holds the targets of which this batch knows a label; `shared` are weights of the model that targets may share,
from output to input, and only gradnorm reads them.
Shapes: T targets.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.errors import ConfigError, TrainError, did_you_mean

Losses = Mapping[str, Tensor]
Shared = Callable[[], Iterable[Tensor]]
Balanced = tuple[Tensor, dict[str, Tensor]]


class SumConfig(Config):
    kind: Literal["sum"] = "sum"

    def build(self, names: Sequence[str]) -> "Fixed":
        return Fixed(dict.fromkeys(names, 1.0))


class FixedConfig(Config):
    kind: Literal["fixed"] = "fixed"
    weights: dict[str, Annotated[float, Field(ge=0)]]  # by the target's name; one that is not named counts 1

    def build(self, names: Sequence[str]) -> "Fixed":
        for name in self.weights:
            if name not in names:
                raise ConfigError(
                    f'balance fixed: "{name}" is no target; targets: {", ".join(names)}{did_you_mean(name, names)}'
                )
        return Fixed(dict.fromkeys(names, 1.0) | self.weights)


class UncertaintyConfig(Config):
    kind: Literal["uncertainty"] = "uncertainty"
    start: float = 0.0  # of every log variance; 0: all count alike

    def build(self, names: Sequence[str]) -> "Uncertainty":
        return Uncertainty(names, self.start)


class GradNormConfig(Config):
    kind: Literal["gradnorm"] = "gradnorm"
    alpha: float = Field(1.5, ge=0)  # how strongly slow targets are pulled along; 0: all gradients alike

    def build(self, names: Sequence[str]) -> "GradNorm":
        return GradNorm(names, self.alpha)


def _named(given: Any) -> Any:
    return {"kind": given} if isinstance(given, str) else given


BalanceConfig = Annotated[
    SumConfig | FixedConfig | UncertaintyConfig | GradNormConfig,
    Field(discriminator="kind"),
    BeforeValidator(_named),  # `balance: gradnorm`
]


class Fixed(nn.Module):
    """Σ w_t L_t."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.weights = dict(weights)

    def forward(self, losses: Losses, shared: Shared) -> Balanced:
        return torch.stack([self.weights[name] * loss for name, loss in losses.items()]).sum(), {}


class Uncertainty(nn.Module):
    """Σ ½ e^(-s_t) L_t + ½ s_t, with a learned s_t = ln σ_t² for each target.

    Source: Kendall et al. 2018, arXiv:1705.07115, equation 7; this form for losses of every kind, as LibMTL has it. It
    is least where e^(s_t) = L_t, and it can fall below 0: no stopping and no choice of the best step may watch it.
    """

    def __init__(self, names: Sequence[str], start: float) -> None:
        super().__init__()
        self.names = tuple(names)
        self.log_variance = nn.Parameter(torch.full((len(names),), start))  # (T,)

    def forward(self, losses: Losses, shared: Shared) -> Balanced:
        parts = []
        for name, loss in losses.items():
            s = self.log_variance[self.names.index(name)]
            parts.append((loss * (-s).exp() + s) / 2)
        shown = {f"{name}_log_variance": s for name, s in zip(self.names, self.log_variance.detach(), strict=True)}
        return torch.stack(parts).sum(), shown


class GradNorm(nn.Module):
    """Weights that are learned so that all targets pull as hard at the last weights that they share, and learn as fast.

    G_t = |∇_W w_t L_t|, r_t = (L_t / L_t(0)) / mean; the weights follow Σ |G_t - mean(G) r_t^α| alone, the model
    follows Σ w_t L_t alone, and both are in the loss that comes back.

    Source: Chen et al. 2018, arXiv:1711.02257, algorithm 1. Instead of rescaling the weights to the sum T after each
    step, they are T softmax(θ), as in LibMTL; L_t(0) is the loss when a target was first seen.
    """

    first: Tensor

    def __init__(self, names: Sequence[str], alpha: float) -> None:
        super().__init__()
        self.names = tuple(names)
        self.alpha = alpha
        self.logits = nn.Parameter(torch.zeros(len(names)))  # θ (T,)
        self.register_buffer("first", torch.full((len(names),), torch.nan))  # L_t(0) (T,)

    def forward(self, losses: Losses, shared: Shared) -> Balanced:
        weights = len(self.names) * self.logits.softmax(0)
        shown = {f"{name}_weight": weight for name, weight in zip(self.names, weights.detach(), strict=True)}
        rows = torch.tensor([self.names.index(name) for name in losses], device=weights.device)
        each = torch.stack(list(losses.values()))
        loss = (weights[rows].detach() * each).sum()
        if len(losses) > 1 and torch.is_grad_enabled():
            loss = loss + self._pull(weights[rows], each.detach(), rows, _norms(losses, shared))
        return loss, shown

    def _pull(self, weights: Tensor, losses: Tensor, rows: Tensor, norms: Tensor) -> Tensor:
        with torch.no_grad():
            first = self.first[rows]
            self.first[rows] = torch.where(first.isnan(), losses, first)
            left = losses / self.first[rows].clamp(min=1e-12)
            wanted = (weights * norms).mean() * (left / left.mean().clamp(min=1e-12)) ** self.alpha
        return (weights * norms - wanted).abs().sum()


def _norms(losses: Losses, shared: Shared) -> Tensor:
    """|∇_W L_t| (T,) at the first W of `shared` that has a gradient from every loss.

    Raises:
        TrainError: there is none.
    """
    for weight in shared():
        gradients = []
        for loss in losses.values():
            (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True, allow_unused=True)
            if gradient is None:
                break
            gradients.append(gradient.norm())
        if len(gradients) == len(losses):
            return torch.stack(gradients).detach()
    raise TrainError(
        f"balance gradnorm: the targets {', '.join(losses)} share no weight that learns; unfreeze the fusion or an "
        "encoder, or set balance: uncertainty"
    )
