"""Several trained models as one: what they predict is mixed, or their spaces are put side by side.

Shapes: B rows; C outputs of a target; L tokens; D width of a space; M members.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid, normalize

from polymodal.config import Config
from polymodal.encoders import TextEncoderConfig, pooled
from polymodal.errors import ShapeError
from polymodal.features import Task
from polymodal.models.clip import Clip, ClipConfig
from polymodal.models.forms import Forms
from polymodal.models.multimodal import Multimodal, MultimodalConfig, MultimodalOutput
from polymodal.types import Fused, Input, Text, Tokens

Share = Annotated[float, Field(ge=0, le=1)]
Of = Literal["probabilities", "logits"]


def _whole(weights: Sequence[float], members: int, where: str) -> None:
    if len(weights) != members or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"{where} must be {members} numbers that sum to 1, got {list(weights)}")


# ---------------------------------------------------------------------------------------------------------------------
# Models of a table's rows


class Member(Config):
    model: MultimodalConfig
    inputs: dict[str, str]  # the member's name of an input -> the ensemble's


class Mixture(Config):
    """How one target's prediction is made of the members' outputs: each times its factor plus its offset, then mixed.

    The factor of logits is 1 / temperature; factors and offsets of values lead from one scale to another.
    """

    task: Task
    weights: tuple[Share, ...]
    factors: tuple[float, ...]
    offsets: tuple[float, ...]


class EnsembleConfig(Config):
    kind: Literal["ensemble"] = "ensemble"
    members: tuple[Member, ...] = Field(min_length=1)
    of: Of = "probabilities"
    targets: dict[str, Mixture] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> "EnsembleConfig":
        for name, mixture in self.targets.items():
            _whole(mixture.weights, len(self.members), f'weights of target "{name}"')
            if not len(mixture.factors) == len(mixture.offsets) == len(self.members):
                raise ValueError(f'target "{name}" must have {len(self.members)} factors and offsets')
            for member in self.members:
                if name not in member.model.heads.targets:
                    raise ValueError(f'a member has no head for target "{name}"')
        return self

    def build(self) -> "Ensemble":
        return Ensemble(self)


def mixed(task: Task, of: Of, outputs: Sequence[Tensor], weights: Sequence[Tensor] | Sequence[float]) -> Tensor:
    """One prediction of several, of their shape (..., C): logits, or scaled values.

    probabilities: the weighted mean of what the members hold for likely, as logits again (the linear opinion pool);
    logits: their weighted mean, which is the normalized geometric mean of probabilities (the logarithmic pool). Of
    values both are the weighted mean.

    Source: Genest & Zidek 1986, "Combining Probability Distributions", sections 3 and 4.

    Args:
        outputs: of each member, with factors and offsets applied.
        weights: M numbers of at least 0 that sum to 1; a member of weight 0 has no effect.
    """
    stacked = torch.stack(list(outputs), -1)
    shares = torch.stack([torch.as_tensor(one, dtype=stacked.dtype, device=stacked.device) for one in weights])
    if task == "regression" or of == "logits":
        return (stacked * shares).sum(-1)
    logs = shares.log()
    if task in ("multiclass", "tokens"):
        return (log_softmax(stacked, -2) + logs).logsumexp(-1)
    if task == "ordinal":  # a threshold above another is never likelier passed, see `metrics.supervised.probabilities`
        stacked = stacked.cummin(-2).values
    return (logsigmoid(stacked) + logs).logsumexp(-1) - (logsigmoid(-stacked) + logs).logsumexp(-1)


class Ensemble(nn.Module):
    """Called as a `Multimodal` is; every member looks at its own inputs."""

    forms: Forms = Forms()  # of all members, under the names that their modules have here

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__()
        self.config = config
        self.members = nn.ModuleList(member.model.build() for member in config.members)

    @property
    def width(self) -> int:
        """Of `pooled`."""
        return sum(member.fusion.width for member in self._models())

    def readers(self, name: str) -> list[tuple[Multimodal, str]]:
        """The members that read an input of the ensemble, and what they call it."""
        members = zip(self.config.members, self._models(), strict=True)
        return [(model, own) for about, model in members for own, ours in about.inputs.items() if ours == name]

    def _models(self) -> list[Multimodal]:
        return [member for member in self.members if isinstance(member, Multimodal)]

    def forward(
        self, inputs: Mapping[str, Input], present: Mapping[str, Tensor] | None = None, *, maps: bool = False
    ) -> MultimodalOutput:
        """Predictions of B rows; arguments as of `Multimodal.forward`.

        `tokens`, and those of `fused`, stay empty, for members may name them alike; `pooled` has the members' joint
        states side by side.

        Raises:
            ShapeError: no input is given, or one that no member knows.
        """
        known = {ours for member in self.config.members for ours in member.inputs.values()}
        if inputs.keys() - known or not inputs:
            raise ShapeError(
                f"the model reads {', '.join(sorted(known))}; got {', '.join(sorted(inputs)) or 'no input'}"
            )
        said: list[MultimodalOutput] = []
        for about, member in zip(self.config.members, self.members, strict=True):
            own = {name: inputs[ours] for name, ours in about.inputs.items() if ours in inputs}
            there = {name: present[ours] for name, ours in about.inputs.items() if present and ours in present}
            said.append(member(own, there or None, maps=maps))
        pooled = torch.cat([one.fused.pooled for one in said], -1)
        shown = {f"{nth}/{name}": value for nth, one in enumerate(said) for name, value in one.fused.maps.items()}
        return MultimodalOutput({}, Fused(pooled, {}, shown), self._predictions([one.predictions for one in said]))

    def _predictions(self, said: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        found = {}
        for name, mixture in self.config.targets.items():
            outputs = [
                one[name].float() * factor + offset
                for one, factor, offset in zip(said, mixture.factors, mixture.offsets, strict=True)
            ]
            found[name] = mixed(mixture.task, self.config.of, outputs, mixture.weights)
        return found


# ---------------------------------------------------------------------------------------------------------------------
# Models of pictures and texts


class ClipEnsembleConfig(Config):
    """Vectors are those of the members side by side, each times √weight: cosines are the weighted means of theirs."""

    kind: Literal["clip_ensemble"] = "clip_ensemble"
    members: tuple[ClipConfig, ...] = Field(min_length=1)
    weights: tuple[Share, ...]
    temperature: float = Field(gt=0)  # cosines are divided by it
    bias: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> "ClipEnsembleConfig":
        _whole(self.weights, len(self.members), "weights")
        return self

    @property
    def shared_width(self) -> int:
        """D."""
        return sum(member.shared_width for member in self.members)

    @property
    def text(self) -> TextEncoderConfig:
        """Of the member that reads the shortest texts."""
        return min((member.text for member in self.members), key=lambda one: getattr(one, "max_length", math.inf))

    def build(self) -> "ClipEnsemble":
        return ClipEnsemble(self)


class JoinedTowers(nn.Module):
    """One side of the members: their towers and projections."""

    def __init__(self, towers: Sequence[nn.Module], projections: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.towers, self.projections = nn.ModuleList(towers), nn.ModuleList(projections)
        self.weights = tuple(weights)

    def forward(self, given: Tensor | Text) -> Tokens:
        """One token a row: the vector (B, D), of unit length."""
        vectors = self._joined([tower(given).pooled for tower in self.towers])
        return Tokens(vectors[:, None], torch.ones(len(vectors), 1, dtype=torch.bool, device=vectors.device), vectors)

    def pooled(self, given: Tensor | Text) -> Tensor:
        """(B, D), in eval mode; what only other tokens need is left out."""
        return self._joined([pooled(tower, given) for tower in self.towers])

    def _joined(self, said: Sequence[Tensor]) -> Tensor:
        parts = zip(self.weights, self.projections, said, strict=True)
        return torch.cat([weight**0.5 * normalize(projection(one), dim=-1) for weight, projection, one in parts], -1)


class ClipEnsemble(Clip):
    """A `Clip` whose towers are those of all members."""

    config: ClipEnsembleConfig  # type: ignore[assignment]

    def __init__(self, config: ClipEnsembleConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        members = [member.build() for member in config.members]
        self.image_encoder = JoinedTowers(  # type: ignore[assignment]
            [one.image_encoder for one in members], [one.image_projection for one in members], config.weights
        )
        self.text_encoder = JoinedTowers(  # type: ignore[assignment]
            [one.text_encoder for one in members], [one.text_projection for one in members], config.weights
        )
        self.image_projection, self.text_projection = nn.Identity(), nn.Identity()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)), requires_grad=False)
        self.bias = None if config.bias is None else nn.Parameter(torch.tensor(config.bias), requires_grad=False)
