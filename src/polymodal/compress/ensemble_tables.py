"""Models that predict targets from a table's rows, combined into one.

Shapes: N rows; C outputs of a target; M members.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn

from polymodal.artifact import Artifact, Model
from polymodal.compress.held_rows import HeldRows
from polymodal.compress.members import Combined, Weights, joined_forms, same_tokenizer
from polymodal.data.manifest import Manifest
from polymodal.engine import load_predictor
from polymodal.engine.predict import Seen
from polymodal.errors import ArtifactError, DataError
from polymodal.features import Features, InputConfig, Target
from polymodal.metrics.score import Score, difference, score
from polymodal.metrics.supervised import MAIN_METRIC
from polymodal.models.ensemble import Ensemble, EnsembleConfig, Member, Mixture, Of, mixed
from polymodal.models.multimodal import Multimodal, MultimodalConfig
from polymodal.objectives.supervised import target_loss

Source = str | Path
Outputs = dict[str, Tensor]  # of one member, in the ensemble's scale, by the target's name: (N, C), of tokens (N, L, C)


# ---------------------------------------------------------------------------------------------------------------------
# Members


def same_targets(sources: Sequence[Source], features: Sequence[Features]) -> dict[str, Target]:
    """The targets of all, with the scale of the first; temperatures are 1, for members are heated one by one.

    Raises:
        ArtifactError: they answer different targets, or the same with other classes.
    """
    first, *others = features
    for source, other in zip(sources[1:], others, strict=True):
        if first.targets.keys() != other.targets.keys():
            raise ArtifactError(
                f'ensemble: "{sources[0]}" predicts {_listed(first.targets)} and "{source}" {_listed(other.targets)}; '
                "combine models of the same targets"
            )
        for name, target in first.targets.items():
            _same_target(name, target, other.targets[name], sources[0], source)
            if target.task == "tokens" and first.inputs[target.text] != other.inputs.get(other.targets[name].text):
                raise ArtifactError(f'ensemble: target "{name}" labels words, but "{source}" reads them otherwise')
    if not first.targets:
        raise ArtifactError(f'ensemble: "{sources[0]}" has no targets, it was only pre-trained; fine-tune it')
    return {name: target.model_copy(update={"temperature": 1.0}) for name, target in first.targets.items()}


def _same_target(name: str, one: Target, other: Target, first: Source, source: Source) -> None:
    for what in ("task", "columns", "classes"):
        if getattr(one, what) != getattr(other, what):
            raise ArtifactError(
                f'ensemble: target "{name}" has {what} {_listed(getattr(one, what))} in "{first}" and '
                f'{_listed(getattr(other, what))} in "{source}"; combine models that answer the same'
            )


def _listed(values: Any) -> str:
    shown = [values] if isinstance(values, str) else list(values)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "") or "nothing"


def joined_inputs(features: Sequence[Features]) -> tuple[dict[str, InputConfig], list[dict[str, str]]]:
    """All inputs, each different one once, and of each member its names for them -> those they have here."""
    whole: dict[str, InputConfig] = {}
    names: list[dict[str, str]] = []
    for nth, one in enumerate(features):
        own = {}
        for name, config in one.inputs.items():
            known = next((there for there, other in whole.items() if other == config), None)
            own[name] = known or (name if name not in whole else f"{name}.{nth + 1}")
            whole.setdefault(own[name], config)
        names.append(own)
    return whole, names


def scales(target: Target, members: Sequence[Target]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Factors and offsets that bring the members' outputs into the target's scale, see `Mixture`."""
    if target.task == "regression":
        factors = tuple(one.std / target.std for one in members)
        return factors, tuple((one.mean - target.mean) / target.std for one in members)
    return tuple(1 / one.temperature for one in members), (0.0,) * len(members)


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def fit_weights(
    target: Target, of: Of, outputs: Sequence[Tensor], labels: Tensor, known: Tensor
) -> tuple[tuple[float, ...], list[float]]:
    """Weights of the least loss, and the loss of each member alone.

    Of probabilities the log loss is convex in the weights. What comes is compared with each member alone and with
    equal weights, so that it is never worse than the best of them.

    Args:
        outputs: of each member, in the target's scale; (N, C).
        labels, known: as `features.Target` says.

    Raises:
        DataError: no label is known.
    """
    if not known.any():
        raise DataError(f'ensemble: target "{target.columns[0]}": no validation row has a value; weights need some')
    said, count = [one.double() for one in outputs], len(outputs)

    def loss(weights: Tensor) -> Tensor:
        return target_loss(target, mixed(target.task, of, said, list(weights)), labels, known)

    def told(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        # A weight of 0 has a logarithm and a slope of infinity.
        given = torch.tensor(weights.clip(1e-9), requires_grad=True)
        value = loss(given)
        (slope,) = torch.autograd.grad(value, given)
        return value.item(), slope.double().numpy()

    even = np.full(count, 1 / count)
    found = minimize(
        told,
        even,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": lambda weights: np.ones(count)},
    )
    solved = np.where(found.x < 1e-3, 0, found.x)  # what counts for so little is not worth a model's time
    choices = [*np.eye(count), even, *([solved / solved.sum()] if np.isfinite(solved).all() and solved.any() else [])]
    losses = [loss(torch.tensor(one)).item() for one in choices]
    return tuple(choices[int(np.argmin(losses))].tolist()), losses[:count]


# ---------------------------------------------------------------------------------------------------------------------
# The whole


def combine(
    sources: Sequence[Source],
    members: Sequence[Artifact],
    rows: HeldRows,
    weights: Weights,
    of: Of,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Combined:
    """The ensemble with what is told of it; members of no weight are left out.

    Raises:
        ArtifactError: the members cannot be combined.
        DataError: a target has no value in the validation rows.
    """
    features = [_features(member) for member in members]
    targets = same_targets(sources, features)
    tokenizer = same_tokenizer(sources, members, "ensemble")
    outputs, truth = _seen(sources, rows.validation, targets, features, progress)
    fits = {
        name: fit_weights(target, of, [one[name] for one in outputs], truth.targets[name], truth.known[name])
        for name, target in targets.items()
    }
    chosen = {name: fit[0] if weights.fitted else weights.shares for name, fit in fits.items()}
    losses = {name: fit[1] for name, fit in fits.items()}
    data = _told(sources, chosen, losses, of, rows, weights.fitted)
    whole = _mixed(targets, chosen, of, outputs)
    data["ensemble"]["loss"] = {
        name: target_loss(target, whole[name].double(), truth.targets[name], truth.known[name]).item()
        for name, target in targets.items()
    }
    if rows.measured is not rows.validation:
        outputs, truth = _seen(sources, rows.measured, targets, features, progress)
        whole = _mixed(targets, chosen, of, outputs)
    _add_scores(data, targets, [*outputs, whole], truth, seed)
    return Combined(*_built(members, targets, chosen, of), tokenizer, data)


def _features(member: Artifact) -> Features:
    assert isinstance(member.preprocess, Features)
    return member.preprocess


def _seen(
    sources: Sequence[Source],
    rows: Manifest,
    targets: Mapping[str, Target],
    features: Sequence[Features],
    progress: bool,
) -> tuple[list[Outputs], Seen]:
    """What each member says of the rows in the scale of `targets`, and what the first knows of them."""
    found: list[Outputs] = []
    truth: Seen | None = None
    for nth, source in enumerate(sources):
        predictor = load_predictor(source)
        seen = predictor.see(predictor.rows(rows, with_targets=True), progress=progress)
        truth = truth or seen
        scaled = {}
        for name, target in targets.items():
            factors, offsets = scales(target, [one.targets[name] for one in features])
            scaled[name] = seen.outputs[name] * factors[nth] + offsets[nth]
        found.append(scaled)
    assert truth is not None
    return found, truth


def _mixed(
    targets: Mapping[str, Target], chosen: Mapping[str, tuple[float, ...]], of: Of, outputs: Sequence[Outputs]
) -> Outputs:
    return {name: mixed(one.task, of, [said[name] for said in outputs], chosen[name]) for name, one in targets.items()}


def _built(
    members: Sequence[Artifact], targets: Mapping[str, Target], chosen: Mapping[str, tuple[float, ...]], of: Of
) -> tuple[Ensemble, Features]:
    """The model with its weights, without the members that count for nothing, and what its inputs go through."""
    places = [nth for nth in range(len(members)) if any(one[nth] > 0 for one in chosen.values())]
    features = [_features(members[nth]) for nth in places]
    inputs, names = joined_inputs(features)
    mixtures = {}
    for name, target in targets.items():
        factors, offsets = scales(target, [one.targets[name] for one in features])
        weights = tuple(chosen[name][nth] for nth in places)
        mixtures[name] = Mixture(task=target.task, weights=weights, factors=factors, offsets=offsets)
    models = [members[nth].model for nth in places]
    config = EnsembleConfig(
        members=tuple(Member(model=_config(one), inputs=own) for one, own in zip(models, names, strict=True)),
        of=of,
        targets=mixtures,
    )
    whole = config.build()
    whole.forms = joined_forms([(one.forms, {"": f"members.{nth}."}) for nth, one in enumerate(models)])
    whole.members = nn.ModuleList(models)
    settled = {name: _reading(target, names[0]) for name, target in targets.items()}
    return whole, Features(inputs=inputs, targets=settled)


def _config(model: Model) -> MultimodalConfig:
    assert isinstance(model, Multimodal)
    return model.config


def _reading(target: Target, names: Mapping[str, str]) -> Target:
    return target.model_copy(update={"text": names[target.text]}) if target.task == "tokens" else target


# ---------------------------------------------------------------------------------------------------------------------
# What is told


def _told(
    sources: Sequence[Source],
    chosen: Mapping[str, tuple[float, ...]],
    losses: Mapping[str, list[float]],
    of: Of,
    rows: HeldRows,
    fitted: bool,
) -> dict[str, Any]:
    members: list[dict[str, Any]] = [
        {
            "name": str(source),
            "weights": {name: weights[nth] for name, weights in chosen.items()},
            "loss": {name: each[nth] for name, each in losses.items()},
        }
        for nth, source in enumerate(sources)
    ]
    warnings = list(rows.warnings)
    if fitted and rows.measured is rows.validation:
        warnings.append("weights were fitted on the rows that are measured: on new ones the ensemble is a little worse")
    warnings += [f'"{one["name"]}" has weight 0 and is left out' for one in members if not any(one["weights"].values())]
    return {
        "of": of,
        "rows": {"validation": len(rows.validation), "measured": len(rows.measured), "which": rows.which},
        "members": members,
        "ensemble": {},
        "warnings": warnings,
    }


def _add_scores(
    data: dict[str, Any], targets: Mapping[str, Target], outputs: Sequence[Outputs], truth: Seen, seed: int
) -> None:
    """The score of each member and of the ensemble, which comes last in `outputs`, and how they differ."""
    *members, whole = (score(targets, one, truth.targets, truth.known, seed) for one in outputs)
    data["ensemble"] |= _plain(targets, whole)
    for told, one in zip(data["members"], members, strict=True):
        apart = difference(whole, one)
        told |= _plain(targets, one) | {"difference": apart and apart._asdict()}


def _plain(targets: Mapping[str, Target], found: Score) -> dict[str, Any]:
    mains = {name: found.reports[name].get(MAIN_METRIC[target.task]) for name, target in targets.items()}
    interval = found.interval
    return {
        "score": found.value,
        "low": interval and interval.low,
        "high": interval and interval.high,
        "targets": {name: {MAIN_METRIC[targets[name].task]: value} for name, value in mains.items()},
    }
