"""Heads: from the joint state to the predictions of each target; and what several targets share.

Sources: the head of two layers is that of LXMERT and ViLBERT for VQA (arXiv:1908.07490, arXiv:1912.02315); cross-stitch
units: Misra et al. 2016, arXiv:1604.03539; towers tied by L2: Duong et al. 2015, ACL P15-2139.
Shapes: B rows; L tokens; W width of the joint state; C outputs of a head; T targets.
"""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.errors import ConfigError, did_you_mean
from polymodal.layers.mlp import Activation, activation
from polymodal.layers.named import module_name
from polymodal.types import Fused, Tokens


class _Head(Config):
    outputs: int = Field(ge=1)  # C: see `features.Target.outputs`
    after: tuple[str, ...] = ()  # heads whose probabilities this one reads beside the state (hierarchical multi-task)
    passes: Literal["softmax", "sigmoid", "value"] | None = None  # to heads after it; None: sigmoid if C is 1
    dropout: float = Field(0.0, ge=0, lt=1)


class LinearHead(_Head):
    kind: Literal["linear"] = "linear"
    input: str | None = None  # None: the joint state; else what this encoder pools, before the fusion

    def build(self, width: int) -> nn.Module:
        return nn.Sequential(nn.Dropout(self.dropout), nn.Linear(width, self.outputs))


class MlpHead(_Head):
    """The defaults are LXMERT's; ViLT's has norm "pre" and eps 1e-5, vilbert_beta's no norm and a ReLU."""

    kind: Literal["mlp"] = "mlp"
    input: str | None = None  # as in `LinearHead`
    hidden: int | None = Field(None, ge=1)  # None: 2 x width
    activation: Activation = "gelu"
    norm: Literal["pre", "post"] | None = "post"  # a LayerNorm before or after the activation
    eps: float = 1e-12

    def build(self, width: int) -> nn.Module:
        return Mlp(self, width)


class TokenLinearHead(_Head):
    """A prediction at every token of an input, after the fusion: named entities."""

    kind: Literal["token_linear"] = "token_linear"
    input: str

    def build(self, width: int) -> nn.Module:
        return nn.Sequential(nn.Dropout(self.dropout), nn.Linear(width, self.outputs))


HeadConfig = Annotated[LinearHead | MlpHead | TokenLinearHead, Field(discriminator="kind")]


class HardSharing(Config):
    """Every head reads the joint state itself."""

    kind: Literal["hard"] = "hard"


class CrossStitchSharing(Config):
    """A tower for each target; after each layer, each tower goes on with a learned mixture of all of them."""

    kind: Literal["cross_stitch"] = "cross_stitch"
    layers: int = Field(2, ge=1, le=100)
    own: float = Field(0.9, gt=0, le=1)  # of a target's own tower at the start; the others share what is left


class TiedSharing(Config):
    """A tower for each target, held together by `Heads.tie`."""

    kind: Literal["tied"] = "tied"
    layers: int = Field(2, ge=1, le=100)
    strength: float = Field(1e-3, gt=0)  # of the sum of squared differences between towers


SharingConfig = Annotated[HardSharing | CrossStitchSharing | TiedSharing, Field(discriminator="kind")]


class HeadsConfig(Config):
    targets: dict[str, HeadConfig] = Field({})  # by the target's name
    sharing: SharingConfig = HardSharing()

    @model_validator(mode="after")
    def _fits(self) -> "HeadsConfig":
        for name, head in self.targets.items():
            for other in head.after:
                if other not in self.targets:
                    raise ValueError(f'head "{name}" is after "{other}", which is no head{_near(other, self.targets)}')
                if self.targets[other].kind == "token_linear":
                    raise ValueError(f'head "{name}" cannot be after "{other}", which predicts at every token')
        self.order()
        if self.sharing.kind != "hard" and len(self.shared()) < 2:
            raise ValueError(
                f'sharing "{self.sharing.kind}" needs two heads or more on the joint state, got {len(self.shared())}'
            )
        return self

    def order(self) -> tuple[str, ...]:
        """Names of the heads, each behind those that it reads."""
        try:
            return tuple(TopologicalSorter({name: head.after for name, head in self.targets.items()}).static_order())
        except CycleError as error:
            raise ValueError(f"heads must not be after each other in a circle: {' -> '.join(error.args[1])}") from None

    def shared(self) -> tuple[str, ...]:
        """Names of the heads on the joint state, which sharing is about."""
        return tuple(name for name, head in self.targets.items() if head.input is None)

    def build(self, width: int, widths: Mapping[str, int], encoder_widths: Mapping[str, int]) -> "Heads":
        """The heads.

        Args:
            width: of the joint state.
            widths: of each input's tokens after the fusion.
            encoder_widths: of what each encoder pools.

        Raises:
            ConfigError: a head reads an input that the model does not have.
        """
        return Heads(self, width, widths, encoder_widths)


class Mlp(nn.Module):
    """Linear, activation and norm, dropout, linear."""

    def __init__(self, config: MlpHead, width: int) -> None:
        super().__init__()
        hidden = config.hidden or 2 * width
        norm = nn.Identity() if config.norm is None else nn.LayerNorm(hidden, eps=config.eps)
        self.norm_first = config.norm == "pre"
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation(config.activation)
        self.norm = norm
        self.dropout = nn.Dropout(config.dropout)
        self.fc2 = nn.Linear(hidden, config.outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        x = self.act(self.norm(x)) if self.norm_first else self.norm(self.act(x))
        out: Tensor = self.fc2(self.dropout(x))
        return out


class Towers(nn.Module):
    """A tower of equal layers (linear, GELU) for each of T targets, with or without cross-stitch units."""

    def __init__(self, config: CrossStitchSharing | TiedSharing, names: tuple[str, ...], width: int) -> None:
        super().__init__()
        self.names = names
        self.towers = nn.ModuleDict(
            {module_name(name): nn.ModuleList(nn.Linear(width, width) for _ in range(config.layers)) for name in names}
        )
        self.mixture: nn.Parameter | None = None  # (layers, T, T), row: who reads
        if isinstance(config, CrossStitchSharing):
            mixture = torch.full((len(names), len(names)), (1 - config.own) / (len(names) - 1))
            self.mixture = nn.Parameter(mixture.fill_diagonal_(config.own).repeat(config.layers, 1, 1))

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        """(B, W) by the target's name."""
        states = [pooled] * len(self.names)
        for depth, layer in enumerate(zip(*self.towers.values(), strict=True)):
            states = [nn.functional.gelu(linear(x)) for linear, x in zip(layer, states, strict=True)]
            if self.mixture is not None:
                states = list(torch.einsum("ij,jbw->ibw", self.mixture[depth], torch.stack(states)))
        return dict(zip(self.names, states, strict=True))

    def distance(self) -> Tensor:
        """(), the sum over pairs of towers of the squared differences of all their weights.

        It is T Σ (θ_i - mean θ)², which needs no pairs.
        """
        towers = [torch.cat([weight.flatten() for weight in tower.parameters()]) for tower in self.towers.values()]
        together = torch.stack(towers)
        return len(towers) * (together - together.mean(0)).square().sum()


class Heads(nn.Module):
    def __init__(
        self, config: HeadsConfig, width: int, widths: Mapping[str, int], encoder_widths: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.config = config
        self.order = config.order()
        self.encoder_widths = dict(encoder_widths)
        self.towers: Towers | None = None
        if not isinstance(config.sharing, HardSharing):
            self.towers = Towers(config.sharing, config.shared(), width)
        self.targets = nn.ModuleDict()
        for name, head in config.targets.items():
            read = width if head.input is None else _known(name, head, widths, encoder_widths)
            self.targets[module_name(name)] = head.build(read + sum(config.targets[one].outputs for one in head.after))

    def forward(self, fused: Fused, tokens: Mapping[str, Tokens]) -> dict[str, Tensor]:
        """Predictions by the target's name: (B, C), or (B, L, C) of a token head; logits, or scaled values.

        Args:
            fused: the joint state.
            tokens: of the encoders. A head on an encoder that was given nothing at all sees zeros.
        """
        shared = self.towers(fused.pooled) if self.towers is not None else {}
        found: dict[str, Tensor] = {}
        for name in self.order:
            head = self.config.targets[name]
            state = shared[name] if name in shared else self._state(head, fused, tokens)
            read = [_passed(self.config.targets[one], found[one]) for one in head.after]
            if state.ndim == 3:
                read = [one[:, None].expand(-1, state.shape[1], -1) for one in read]
            found[name] = self.targets[module_name(name)](torch.cat([state, *read], dim=-1) if read else state)
        return {name: found[name] for name in self.config.targets}

    def _state(self, head: HeadConfig, fused: Fused, tokens: Mapping[str, Tokens]) -> Tensor:
        if head.input is None:
            return fused.pooled
        if isinstance(head, TokenLinearHead):
            return fused.tokens[head.input].sequence
        if head.input not in tokens:
            return fused.pooled.new_zeros(fused.pooled.shape[0], self.encoder_widths[head.input])
        return tokens[head.input].pooled

    def tie(self) -> Tensor:
        """(), the loss that holds tied towers together; 0 without them."""
        if self.towers is None or not isinstance(self.config.sharing, TiedSharing):
            return torch.zeros((), device=next(self.parameters(), torch.zeros(())).device)
        return self.config.sharing.strength * self.towers.distance()


def _passed(head: HeadConfig, prediction: Tensor) -> Tensor:
    match head.passes or ("sigmoid" if head.outputs == 1 else "softmax"):
        case "softmax":
            return prediction.softmax(-1)
        case "sigmoid":
            return prediction.sigmoid()
        case _:
            return prediction


def _known(name: str, head: HeadConfig, widths: Mapping[str, int], encoder_widths: Mapping[str, int]) -> int:
    there = widths if isinstance(head, TokenLinearHead) else encoder_widths
    if head.input is None or head.input not in there:
        raise ConfigError(
            f'head "{name}" reads input "{head.input}"; the model has {", ".join(there)}{_near(str(head.input), there)}'
        )
    return there[head.input]


def _near(name: str, known: Mapping[str, object]) -> str:
    return did_you_mean(name, known)
