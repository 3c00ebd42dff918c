"""Which parts of a model suffer most from a change, and how many must be spared so that a bound on the loss holds."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from polymodal.artifact import Model
from polymodal.compress.calibration import batches, run
from polymodal.compress.step import Work
from polymodal.errors import ArtifactError
from polymodal.models.clip import Clip
from polymodal.preprocess import Preprocess
from polymodal.types import Batch, ImageTextBatch

PROBED = 32  # rows by which each part is judged: dozens of parts, each asked about all of them


class Unit(NamedTuple):
    """A part of the model that can be changed by itself."""

    name: str
    change: Callable[[Model], None]  # in place


def within_bound(work: Work, model: Model, units: Sequence[Unit], rows: int) -> tuple[Model, tuple[str, ...]]:
    """The model with as many units changed as the bound on the loss allows, and what there is to say of it.

    Units are spared in the order of what changing each alone does to the model's answers, the worst first. How many is
    found by halving, so that a few dozen units cost half a dozen measurements.

    Args:
        model: as the work's model, or one that says the same; it is not changed.

    Raises:
        ArtifactError: the bound is broken before any unit is changed.
    """
    everything = changed(model, units)
    allowed = _allowed(work)
    if allowed is None or _value(work, everything) >= allowed:
        return everything, ()
    if work.score().value < allowed:
        raise ArtifactError(
            f"the bound on the loss cannot be kept: {_told(work)} and the model has {100 * work.score().value:.2f} % "
            "before any weight is quantized; allow more, or ask less of the steps before"
        )
    work.say(f"the bound is broken with all of {len(units)} parts quantized: measuring which of them hurt")
    order = sorted(zip(hurts(work, model, units, rows), units, strict=True), key=lambda one: -one[0])
    ranked = [unit for _, unit in order]
    low, high, best = 0, len(ranked), model  # sparing `low` breaks the bound; sparing `high` keeps it
    while high - low > 1:
        middle = (low + high) // 2
        tried = changed(model, ranked[middle:])
        if _value(work, tried) >= allowed:
            high, best = middle, tried
        else:
            low = middle
    if high == len(ranked):
        raise ArtifactError(
            f"the bound on the loss cannot be kept: {_told(work)}; it is broken with a single part quantized, "
            f"{ranked[-1].name}; allow more, or take bf16"
        )
    spared = ", ".join(unit.name for unit in ranked[:high])
    return best, (f"{high} of {len(ranked)} parts stay in float, for they hurt most: {spared}",)


def changed(model: Model, units: Sequence[Unit]) -> Model:
    """A copy of the model with these units changed."""
    new = copy.deepcopy(model)
    for unit in units:
        unit.change(new)
    return new


def hurts(work: Work, model: Model, units: Sequence[Unit], rows: int) -> list[float]:
    """What changing each unit alone does to the model's answers on calibration rows.

    Of vectors the mean of 1 - cosine; of predictions the mean squared difference over their variance.
    """
    given = list(batches(work, min(rows, PROBED)))
    wanted = [_says(work, model, batch, None) for batch in given]
    found = []
    for unit in units:
        tried = changed(model, [unit])
        side = next((side for side in ("image", "text") if unit.name.startswith(f"{side}_")), None)
        said = [_says(work, tried, batch, side) for batch in given]
        pairs = [(key, own[key], one[key]) for own, one in zip(wanted, said, strict=True) for key in one]
        found.append(sum(_apart(*pair) for pair in pairs) / len(given))
    return found


@torch.no_grad()
def _says(work: Work, model: Model, batch: ImageTextBatch | Batch, side: str | None) -> dict[str, Tensor]:
    """What `run` says; of a model of two towers one side alone, if it is named."""
    if side is None or not isinstance(model, Clip) or not isinstance(work.preprocess, Preprocess):
        return {name: said.float().flatten(1) for name, said in run(work, model, batch).items()}
    assert isinstance(batch, ImageTextBatch)
    if side == "image":
        return {side: model.embed_image(work.preprocess.image.normalize(batch.pixels))}
    return {side: model.embed_text(batch.text)}


def _apart(key: str, wanted: Tensor, said: Tensor) -> float:
    if key in ("image", "text"):
        return (1 - cosine_similarity(wanted, said, dim=1)).mean().item()
    return ((wanted - said).square().mean() / wanted.var().clamp(min=1e-12)).item()


def _allowed(work: Work) -> float | None:
    """The least value that keeps the bound."""
    return None if work.max_loss is None or work.before is None else work.before.value - work.max_loss


def _value(work: Work, model: Model) -> float:
    return replace(work, model=model).score().value


def _told(work: Work) -> str:
    assert work.before is not None
    assert work.max_loss is not None
    return f"{work.before.metric} was {100 * work.before.value:.2f} %, {100 * work.max_loss:.2g} points may be lost"
