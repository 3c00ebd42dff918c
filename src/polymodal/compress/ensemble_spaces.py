"""Models of pictures and texts combined into one, whose cosines are weighted means of theirs.

Shapes: B pairs; M members; D width of a space.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import cross_entropy

from polymodal.artifact import Artifact
from polymodal.compress.members import Combined, Weights, joined_forms, same_tokenizer
from polymodal.data.manifest import Manifest
from polymodal.engine import load_engine
from polymodal.errors import ArtifactError, DataError
from polymodal.evaluate.retrieve import Side, one_way, sides
from polymodal.evaluate.vectors import embed_pictures, embed_texts
from polymodal.models.clip import Clip
from polymodal.models.ensemble import ClipEnsemble, ClipEnsembleConfig
from polymodal.objectives.pairs import belongs
from polymodal.preprocess import Preprocess

Source = str | Path
MOST_PAIRS = 2000  # that weights are fitted on


def combine(
    sources: Sequence[Source],
    members: Sequence[Artifact],
    table: Source,
    weights: Weights,
    *,
    images: Source | None = None,
    split: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Combined:
    """The ensemble with what is told of it.

    Raises:
        ArtifactError: the members cannot be combined.
        DataError: there is no validation row with a picture and a text.
    """
    tokenizer = same_tokenizer(sources, members, "ensemble")
    preprocess = _same_preprocess(sources, members)
    models = [_clip(member) for member in members]
    biases = _biases(sources, models)
    validation, measured, which = _rows(Manifest.read(table, images=images), split)
    scales = [model.log_scale.exp().item() for model in models]
    seen = [_look(source, validation, progress) for source in sources]
    cosines, same = _pairs(seen, seed)
    factors, losses = fit_factors(cosines, same, scales)
    shares = np.array(factors if weights.fitted else weights.shares)
    shares = shares / shares.sum()
    scale = sum(factors) if weights.fitted and not biases else float(shares @ scales)
    data = {
        "rows": {"validation": len(validation), "measured": len(measured), "which": which},
        "members": [
            {"name": str(source), "weight": float(share), "loss": loss}
            for source, share, loss in zip(sources, shares, losses, strict=True)
        ],
        "ensemble": {"loss": contrastive_loss(cosines, torch.from_numpy(shares * scale), same).item()},
        "warnings": _warnings(sources, shares, fitted=weights.fitted and measured is validation),
    }
    if measured is not validation:
        seen = [_look(source, measured, progress) for source in sources]
    _add_scores(data, seen, shares, seed)
    kept = [nth for nth, share in enumerate(shares) if share > 0]
    bias = float(shares @ biases) if biases else None
    whole = _built([models[nth] for nth in kept], [float(shares[nth]) for nth in kept], scale, bias)
    return Combined(whole, preprocess, tokenizer, data)


# ---------------------------------------------------------------------------------------------------------------------
# Members


def _clip(member: Artifact) -> Clip:
    assert isinstance(member.model, Clip)
    return member.model


def _same_preprocess(sources: Sequence[Source], members: Sequence[Artifact]) -> Preprocess:
    first, *others = (member.preprocess for member in members)
    assert isinstance(first, Preprocess)
    for source, other in zip(sources[1:], others, strict=True):
        if other != first:
            raise ArtifactError(
                f'ensemble: "{sources[0]}" and "{source}" see pictures and texts otherwise (preprocess.json); combine '
                "models of one picture size, normalization and text length"
            )
    return first


def _biases(sources: Sequence[Source], models: Sequence[Clip]) -> list[float]:
    """Of SigLIP's kind of model; empty for the others."""
    found = [model.bias.item() for model in models if model.bias is not None]
    if len(found) not in (0, len(models)):
        raise ArtifactError(
            f"ensemble: of {', '.join(map(str, sources))} some have a bias, as SigLIP's loss gives one, and others do "
            "not, so their probabilities mean different things; combine models of one kind"
        )
    return found


def _built(models: Sequence[Clip], weights: Sequence[float], scale: float, bias: float | None) -> ClipEnsemble:
    config = ClipEnsembleConfig(
        members=tuple(model.config for model in models), weights=tuple(weights), temperature=1 / scale, bias=bias
    )
    whole = config.build()
    moved = []
    for nth, model in enumerate(models):
        names = {}
        for side in ("image", "text"):
            joined = getattr(whole, f"{side}_encoder")
            joined.towers[nth] = getattr(model, f"{side}_encoder")
            joined.projections[nth] = getattr(model, f"{side}_projection")
            names[f"{side}_encoder"] = f"{side}_encoder.towers.{nth}"
            names[f"{side}_projection"] = f"{side}_encoder.projections.{nth}"
        moved.append((model.forms, names))
    whole.forms = joined_forms(moved)
    return whole


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def _rows(manifest: Manifest, split: str | None) -> tuple[Manifest, Manifest, str]:
    """Rows to fit weights on, rows to measure on, and what these are."""
    there = manifest.splits() if manifest.split_column is not None else {}
    if split is None and not there:
        return manifest, manifest, "all rows of the table"
    name = split or next((one for one in ("val", "valid", "validation", "dev") if one in there), None)
    if name is None:
        raise DataError(
            f"{manifest.source}: no row is of split val, so there is nothing to choose weights by; name another table, "
            f"or --split (there are: {', '.join(there)})"
        )
    validation = manifest.split(name)
    if "test" in there and name != "test":
        return validation, manifest.split("test"), "rows of split test"
    return validation, validation, f"rows of split {name}"


def _look(source: Source, manifest: Manifest, progress: bool) -> tuple[Side, Side, Tensor]:
    engine, rows = load_engine(source), list(range(len(manifest)))
    pictures, _ = embed_pictures(engine, manifest, rows, progress)
    texts, _ = embed_texts(engine, manifest, rows, progress)
    return sides(manifest, pictures, texts, rows, [], None)


def _pairs(seen: Sequence[tuple[Side, Side, Tensor]], seed: int) -> tuple[list[Tensor], Tensor | None]:
    """Each member's cosines of pictures and texts that belong together, (B, B), and what else does, as `belongs`.

    Each picture comes with one of its texts.
    """
    pairs = seen[0][2]
    draw = np.random.default_rng(seed)
    mixed = pairs[torch.from_numpy(draw.permutation(len(pairs)))]
    _, first = np.unique(mixed[:, 0].numpy(), return_index=True)
    chosen = mixed[torch.from_numpy(draw.permutation(first)[:MOST_PAIRS])]
    cosines = [image.vectors[chosen[:, 0]].double() @ text.vectors[chosen[:, 1]].double().T for image, text, _ in seen]
    return cosines, belongs(chosen[:, 0], chosen[:, 1])


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def contrastive_loss(cosines: Sequence[Tensor], factors: Tensor, same: Tensor | None) -> Tensor:
    """InfoNCE, as `objectives.info_nce` has it, of the sum of the members' cosines, each times its factor."""
    logits = torch.stack([factor * one for factor, one in zip(factors, cosines, strict=True)]).sum(0)
    own = torch.arange(len(logits))
    if same is not None:
        logits = logits.masked_fill(same & ~torch.eye(len(own), dtype=torch.bool), -torch.inf)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def fit_factors(
    cosines: Sequence[Tensor], same: Tensor | None, scales: Sequence[float]
) -> tuple[tuple[float, ...], list[float]]:
    """Factors of the members' cosines whose sum, as logits, has the least contrastive loss; and each member's alone.

    The loss is convex in them. Together they say both how much each member counts and the scale of the whole.

    Args:
        cosines: (B, B) of each member.
        same: (B, B) bool, what belongs together beside the diagonal; None: nothing.
        scales: of each, by which its own logits come from its cosines.
    """
    count = len(cosines)

    def loss(factors: Tensor) -> Tensor:
        return contrastive_loss(cosines, factors, same)

    def told(factors: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        given = torch.tensor(factors, requires_grad=True)
        value = loss(given)
        (slope,) = torch.autograd.grad(value, given)
        return value.item(), slope.numpy()

    start = np.array(scales) / count
    found = minimize(told, start, jac=True, method="L-BFGS-B", bounds=[(0, 1000)] * count).x
    found = np.where(found < 1e-3 * found.sum(), 0, found)
    alone = [np.eye(count)[nth] * scale for nth, scale in enumerate(scales)]
    choices = [*alone, start, *([found] if found.any() else [])]
    losses = [loss(torch.tensor(one)).item() for one in choices]
    return tuple(choices[int(np.argmin(losses))].tolist()), losses[:count]


# ---------------------------------------------------------------------------------------------------------------------
# What is told


def _warnings(sources: Sequence[Source], shares: NDArray[np.float64], *, fitted: bool) -> list[str]:
    found = [f'"{source}" has weight 0 and is left out' for source, share in zip(sources, shares, strict=True)
             if share == 0]  # fmt: skip
    if fitted:
        found.append("weights were fitted on the rows that are measured: on new ones the ensemble is a little worse")
    return found


def _add_scores(
    data: dict[str, Any], seen: Sequence[tuple[Side, Side, Tensor]], shares: NDArray[np.float64], seed: int
) -> None:
    """R@1 both ways of each member and of the ensemble."""
    for told, (image, text, pairs) in zip(data["members"], seen, strict=True):
        told |= _score(image, text, pairs, seed)
    first_image, first_text, pairs = seen[0]
    roots = np.sqrt(shares).tolist()
    images = torch.cat([root * image.vectors for root, (image, _, _) in zip(roots, seen, strict=True)], -1)
    texts = torch.cat([root * text.vectors for root, (_, text, _) in zip(roots, seen, strict=True)], -1)
    image, text = Side(images, first_image.show, {}), Side(texts, first_text.show, {})
    data["ensemble"] |= _score(image, text, pairs, seed)


def _score(image: Side, text: Side, pairs: Tensor, seed: int) -> dict[str, Any]:
    ways = {
        "image_to_text": one_way(image, text, pairs, k=(1, 5, 10), candidates=None, seed=seed),
        "text_to_image": one_way(text, image, pairs.flip(1), k=(1, 5, 10), candidates=None, seed=seed),
    }
    recalls = {way: found["metrics"]["R@1"] for way, found in ways.items()}
    return {"score": sum(one["value"] for one in recalls.values()) / 2, "R@1": recalls}
