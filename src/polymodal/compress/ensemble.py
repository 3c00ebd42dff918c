"""`ensemble`: several trained models as one artifact that `load`, `predict` and `evaluate` take like any other.

Models of a table's rows: each target's prediction is the weighted mean of the members' (of probabilities, or of
logits). Models of pictures and texts: spaces side by side, so that cosines are weighted means of cosines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from polymodal import artifact
from polymodal.artifact import Artifact
from polymodal.card import Card
from polymodal.compress import ensemble_spaces, ensemble_tables
from polymodal.compress.held_rows import rows_for
from polymodal.compress.members import Combined, Weights, named, read_member
from polymodal.errors import ConfigError
from polymodal.features import Features
from polymodal.models.ensemble import ClipEnsemble, Ensemble, Of


@dataclass(frozen=True)
class Ensembled:
    folder: Path
    data: dict[str, Any]  # plain values: members with weights and scores, the ensemble's own, rows, warnings


def ensemble(
    sources: Sequence[str | Path],
    table: str | Path,
    out: str | Path,
    *,
    weights: Literal["fit", "uniform"] | Sequence[float] = "fit",
    of: Of = "probabilities",
    images: str | Path | None = None,
    split: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Ensembled:
    """Combine trained models, write them as one artifact, and measure it beside its members.

    Fitted weights minimize the loss (log loss, or squared error of values) of the validation rows over all weights of
    at least 0 that sum to 1: on these rows no single member has less. Rows of split test, where there are some, are
    what is measured on; else the validation rows are.

    Args:
        sources: artifacts or runs, two or more; they must answer the same targets, or all compare pictures and texts.
        table: with validation rows: split val, or a table of its own; rows that a member's run was trained on are left
            aside.
        out: the artifact's folder; an artifact that stands there is replaced.
        weights: fit, uniform, or a number for each source, as proportions.
        of: what is averaged; of values, and of pictures and texts, both are the same.
        images: the folder of the pictures, if not the table's.
        split: rows to fit weights on, in the place of val.
        seed: of the intervals.

    Raises:
        ConfigError: fewer than two sources, or weights that do not fit them.
        ArtifactError: members that cannot be combined.
        DataError: there are no validation rows.
    """
    _refuse(sources, out, weights)
    members = [read_member(source) for source in sources]
    shares = Weights.of(weights, len(members))
    if _are_tables(sources, members):
        rows = rows_for(sources, table, images=images, split=split)
        found = ensemble_tables.combine(sources, members, rows, shares, of, seed=seed, progress=progress)
    else:
        found = ensemble_spaces.combine(
            sources, members, table, shares, images=images, split=split, seed=seed, progress=progress
        )
    return Ensembled(_save(Path(out), found), found.data | {"artifact": str(out)})


def _save(out: Path, found: Combined) -> Path:
    members = ", ".join(member["name"] for member in found.data["members"])
    return artifact.save(
        out,
        model=found.model.eval(),
        tokenizer=found.tokenizer,
        preprocess=found.preprocess,
        metrics={"ensemble": found.data["ensemble"]},
        card=Card(description=f"An ensemble of {members}."),
    )


def _refuse(sources: Sequence[str | Path], out: str | Path, weights: str | Sequence[float]) -> None:
    if len(sources) < 2:
        raise ConfigError(f"ensemble: wanted two models or more, got {len(sources)}: there is nothing to combine")
    places = [Path(source).resolve() for source in sources]
    if twice := [str(source) for source, place in zip(sources, places, strict=True) if places.count(place) > 1]:
        raise ConfigError(f'ensemble: "{twice[0]}" is there twice; give weights to count one for more')
    if Path(out).resolve() in (*places, *(place / "artifact" for place in places)):
        raise ConfigError(f'ensemble: --out "{out}" is one of the members; choose another folder')
    if isinstance(weights, str) and weights not in ("fit", "uniform"):
        raise ConfigError(f'ensemble: weights must be fit, uniform, or numbers as 0.5,0.3,0.2, got "{weights}"')


def _are_tables(sources: Sequence[str | Path], members: Sequence[Artifact]) -> bool:
    """
    Raises:
        ConfigError: a member is an ensemble itself, or they are of different kinds.
    """
    for source, member in zip(sources, members, strict=True):
        if isinstance(member.model, Ensemble | ClipEnsemble):
            raise ConfigError(f'ensemble: "{source}" is an ensemble itself; name its members instead')
    kinds = [isinstance(member.preprocess, Features) for member in members]
    if len(set(kinds)) > 1:
        tables, spaces = (named(sources, kinds, kind) for kind in (True, False))
        raise ConfigError(
            f"ensemble: {tables} predict targets and {spaces} compare pictures and texts; combine models of one kind"
        )
    return kinds[0]
