"""`soup`: the weights of models that were fine-tuned from the same start, averaged into one of their size.

uniform: the mean of all. greedy: from the best model on, each next one is added if the mean does not score less on the
validation rows; so the soup is never worse there than its best ingredient.

Source: Wortsman et al. 2022, "Model soups", arXiv:2203.05482, section 2 and algorithm 1.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from polymodal import artifact
from polymodal.artifact import Artifact, Model
from polymodal.card import Card
from polymodal.compress.calibration import passes
from polymodal.compress.held_rows import rows_for
from polymodal.compress.members import read_member, same_tokenizer
from polymodal.compress.quality import quality
from polymodal.compress.step import Quality, Work
from polymodal.data.feature_rows import FeatureRows
from polymodal.data.manifest import Manifest
from polymodal.errors import ArtifactError, ConfigError
from polymodal.features import Features
from polymodal.models.ensemble import ClipEnsemble, Ensemble
from polymodal.models.multimodal import Multimodal
from polymodal.train.multimodal.calibrate import with_temperatures

How = Literal["uniform", "greedy"]
BATCH_NORM_ROWS = 1024  # of which statistics are taken
STRANGERS = 0.5  # below this cosine of their weights two models hardly share a start


@dataclass(frozen=True)
class Soup:
    folder: Path
    data: dict[str, Any]  # plain values: ingredients with scores and whether they are in it, its own score, warnings


def soup(
    sources: Sequence[str | Path],
    table: str | Path,
    out: str | Path,
    *,
    how: How = "greedy",
    images: str | Path | None = None,
    split: str | None = None,
    seed: int = 0,
) -> Soup:
    """Average the weights of models of one architecture, write the result and measure it beside its ingredients.

    Statistics of BatchNorm, and temperatures of targets, are not averaged but found again on the validation rows.

    Args:
        sources: artifacts or runs, two or more.
        table: with validation rows, as for `ensemble`.
        out: the artifact's folder; an artifact that stands there is replaced.
        images: the folder of the pictures, if not the table's.
        split: rows to choose by, in the place of val.
        seed: of the intervals.

    Raises:
        ConfigError: fewer than two sources, or `out` is one of them.
        ArtifactError: they differ in architecture, tokenizer or preprocessing, or are quantized.
        DataError: there are no validation rows.
    """
    _refuse(sources, out, how)
    members = [read_member(source) for source in sources]
    same_tokenizer(sources, members, "soup")
    _refuse_differences(sources, members)
    rows = rows_for(sources, table, images=images, split=split)
    works = [_work(member, rows.validation, seed) for member in members]
    scores = [work.score() for work in works]
    order = sorted(range(len(works)), key=lambda nth: -scores[nth].value)
    if how == "greedy":
        chosen, whole = _greedy(works, scores, order)
    else:
        chosen = list(range(len(works)))
        whole = _averaged(works, chosen)
    score = whole.score()
    data = {
        "how": how,
        "rows": {"validation": len(rows.validation)},
        "ingredients": [
            {"name": str(source), "in": nth in chosen, **_plain(scores[nth])} for nth, source in enumerate(sources)
        ],
        "soup": _plain(score),
        "warnings": [*rows.warnings, *_warnings(sources, works, score, scores[order[0]])],
    }
    return Soup(_save(Path(out), whole, [str(sources[nth]) for nth in chosen], data), data | {"artifact": str(out)})


def mean_of(states: Iterable[Mapping[str, Tensor]], running: Iterable[str] = ()) -> dict[str, Tensor]:
    """The mean of several state dicts of the same names and shapes; whole numbers are those of the first.

    Args:
        running: names of entries that are not averaged, but taken from the first.
    """
    first, *others = states
    kept = set(running)
    found = {}
    for name, value in first.items():
        if name in kept or not value.is_floating_point():
            found[name] = value.clone()
        else:
            total = torch.stack([value.double(), *(other[name].double() for other in others)]).mean(0)
            found[name] = total.to(value.dtype)
    return found


def likeness(one: nn.Module, other: nn.Module) -> float:
    """The mean cosine of their matrices, -1 to 1: near 0 where each began at random weights of its own."""
    theirs = dict(other.named_parameters())
    cosines = [
        torch.cosine_similarity(weight.detach().flatten().double(), theirs[name].detach().flatten().double(), dim=0)
        for name, weight in one.named_parameters()
        if weight.ndim > 1
    ]
    return float(torch.stack(cosines).mean()) if cosines else 1.0


@torch.no_grad()
def renew_batch_norm(model: Model, work: Work) -> None:
    """Running means and variances of every BatchNorm, found again on the work's rows, in place.

    Those of averaged weights are not the averages of the ingredients' (Izmailov et al. 2018, arXiv:1803.05407,
    section 3.1). Nothing else of the model is in training mode.
    """
    norms = list(_norms(model))
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches
        norm.train()
    try:
        for _ in passes(work, model, BATCH_NORM_ROWS):
            pass
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def _norms(model: nn.Module) -> Iterator[_BatchNorm]:
    return (module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats)


# ---------------------------------------------------------------------------------------------------------------------
# Recipes


def _greedy(works: Sequence[Work], scores: Sequence[Quality], order: Sequence[int]) -> tuple[list[int], Work]:
    """Which ones are in it, and their mean."""
    chosen, best = [order[0]], scores[order[0]].value
    whole = works[order[0]]
    for nth in order[1:]:
        tried = _averaged(works, [*chosen, nth])
        value = tried.score().value
        if value >= best:
            chosen, best, whole = [*chosen, nth], value, tried
    return chosen, whole


def _averaged(works: Sequence[Work], chosen: Sequence[int]) -> Work:
    first = works[chosen[0]]
    model = copy.deepcopy(first.model)
    own = {id(buffer) for norm in _norms(model) for buffer in norm.buffers()}
    running = [name for name, buffer in model.named_buffers() if id(buffer) in own]
    model.load_state_dict(mean_of([works[nth].model.state_dict() for nth in chosen], running))
    whole = replace(first, model=model.eval())
    renew_batch_norm(model, whole)
    if isinstance(model, Multimodal) and isinstance(first.preprocess, Features):
        rows = FeatureRows(first.measured, first.preprocess, first.tokenizer)
        heated = with_temperatures(model, first.preprocess, rows)
        whole = replace(whole, preprocess=heated)
    return whole


def _work(member: Artifact, rows: Manifest, seed: int) -> Work:
    return Work(
        artifact=member,
        model=member.model,
        tokenizer=member.tokenizer,
        preprocess=member.preprocess,
        train=rows,
        measured=rows,
        measure=quality,
        say=lambda message: None,
        seed=seed,
    )


def _save(out: Path, whole: Work, names: Sequence[str], data: Mapping[str, Any]) -> Path:
    return artifact.save(
        out,
        model=whole.model,
        tokenizer=whole.tokenizer,
        preprocess=whole.preprocess,
        metrics={"soup": data["soup"]},
        card=Card(description=f"The mean of the weights of {', '.join(names)}."),
    )


# ---------------------------------------------------------------------------------------------------------------------
# What is refused, and what is said


def _refuse(sources: Sequence[str | Path], out: str | Path, how: str) -> None:
    if how not in ("uniform", "greedy"):
        raise ConfigError(f'soup: wanted uniform or greedy, got "{how}"')
    if len(sources) < 2:
        raise ConfigError(f"soup: wanted two models or more, got {len(sources)}: there is nothing to average")
    places = [Path(source).resolve() for source in sources]
    if twice := [str(source) for source, place in zip(sources, places, strict=True) if places.count(place) > 1]:
        raise ConfigError(f'soup: "{twice[0]}" is there twice')
    if Path(out).resolve() in (*places, *(place / "artifact" for place in places)):
        raise ConfigError(f'soup: --out "{out}" is one of the ingredients; choose another folder')


def _refuse_differences(sources: Sequence[str | Path], members: Sequence[Artifact]) -> None:
    """
    Raises:
        ArtifactError: the models differ in more than their weights.
    """
    first = members[0]
    if isinstance(first.model, Ensemble | ClipEnsemble):
        raise ArtifactError(f'soup: "{sources[0]}" is an ensemble; average its members instead')
    if first.model.forms.stored or any(change.form.kind == "int8" for change in first.model.forms.changes):
        raise ArtifactError(f'soup: "{sources[0]}" is quantized; average first and quantize the soup')
    for source, member in zip(sources[1:], members[1:], strict=True):
        differing = _differing(first.config.to_dict(), member.config.to_dict())
        if differing or member.model.forms != first.model.forms:
            what = f"{differing[0]} is {differing[1]} and {differing[2]}" if differing else "they were pruned otherwise"
            raise ArtifactError(
                f'soup: "{sources[0]}" and "{source}" are of different architectures ({what}); only weights of the '
                "same shape and meaning can be averaged; `polymodal ensemble` combines any models"
            )
        if _unheated(first) != _unheated(member):
            raise ArtifactError(
                f'soup: "{sources[0]}" and "{source}" see their inputs otherwise (preprocess.json: sizes, scales of '
                "columns or classes); train both on the same rows, or use `polymodal ensemble`"
            )


def _unheated(member: Artifact) -> Any:
    """The preprocessing without temperatures, which are fitted again."""
    if not isinstance(member.preprocess, Features):
        return member.preprocess
    targets = member.preprocess.targets.items()
    return member.preprocess.model_copy(
        update={"targets": {name: target.model_copy(update={"temperature": 1.0}) for name, target in targets}}
    )


def _differing(one: Any, other: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """The first setting, by its dotted name, that differs, and both values."""
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        for key in one:
            if found := _differing(one[key], other[key], f"{path}.{key}".strip(".")):
                return found
        return None
    return None if one == other else (path or "model", one, other)


def _warnings(sources: Sequence[str | Path], works: Sequence[Work], score: Quality, best: Quality) -> Iterator[str]:
    for source, work in zip(sources[1:], works[1:], strict=True):
        if (found := likeness(works[0].model, work.model)) < STRANGERS:
            yield (
                f'"{sources[0]}" and "{source}" hardly share a start (cosine of weights {found:.2f}): a mean of models '
                "that began at different random weights knows nothing; `polymodal ensemble` combines them"
            )
    if score.value < best.value:
        yield (
            f"the soup scores {score.value:.4f}, its best ingredient {best.value:.4f}: use that one, or how=greedy, "
            "which is never worse on these rows"
        )


def _plain(score: Quality) -> dict[str, Any]:
    return {"metric": score.metric, "score": score.value, "low": score.low, "high": score.high}
