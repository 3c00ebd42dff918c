"""Retrieval both ways: pictures ask for their texts, texts ask for their pictures.

Q queries; N items; P pairs of a query and an item that belong together; D width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.manifest import Manifest
from polymodal.errors import DataError
from polymodal.evaluate.measures import histogram, recall_curve, retrieval_measures
from polymodal.evaluate.vectors import Pictures, Rows, Texts
from polymodal.metrics import retrieval

WAYS = ("image_to_text", "text_to_image")
EXAMPLES = 6  # hits, and as many misses
ANSWERS = 5  # of each example
PLOTTED_PAIRS = 20_000  # of the distributions of cosines
RANK_EDGES = (1, 2, 3, 6, *(m * 10**power + 1 for power in range(1, 9) for m in (1, 2, 5)))  # 11, 21, 51, 101, ...


@dataclass(frozen=True)
class Side:
    """Pictures or texts, whichever: what can ask and be found."""

    vectors: Tensor  # (N, D)
    show: Callable[[int], dict[str, Any]]  # how item n is named in the report: {"row": 3} or {"text": "a cat"}
    subsets: Mapping[str, set[int]]  # value of the `by` column -> its items


def sides(
    manifest: Manifest, pictures: Pictures, texts: Texts, rows: Rows, fill: Rows, values: list[str | None] | None
) -> tuple[Side, Side, Tensor]:
    """Both sides, and the (P, 2) pairs of `rows`, by picture; only rows with a good picture and a good text count.

    Args:
        rows: the rows that ask.
        fill: rows that are candidates only.
        values: of the `by` column, for all manifest rows.
    """
    whole = [row for row in [*rows, *fill] if row in pictures.of_row and texts.of_row.get(row)]
    if not set(whole) & set(rows):
        raise DataError("retrieval: no row has both a picture and a text that can be read")
    used_pictures = sorted({pictures.of_row[row] for row in whole})
    used_texts = sorted({text for row in whole for text in texts.of_row[row]})
    picture_at = {old: new for new, old in enumerate(used_pictures)}
    text_at = {old: new for new, old in enumerate(used_texts)}
    asking = set(rows)
    pairs: set[tuple[int, int]] = set()
    picture_sets: dict[str, set[int]] = {}
    text_sets: dict[str, set[int]] = {}
    for row in whole:
        if row not in asking:
            continue
        picture, own = picture_at[pictures.of_row[row]], [text_at[text] for text in texts.of_row[row]]
        pairs |= {(picture, text) for text in own}
        if values is not None:
            subset = values[row] or ""
            picture_sets.setdefault(subset, set()).add(picture)
            text_sets.setdefault(subset, set()).update(own)
    image = Side(
        torch.from_numpy(pictures.vectors[used_pictures]),
        lambda place: {"row": int(manifest.row_numbers[pictures.rows[used_pictures[place]]])},
        picture_sets,
    )
    text = Side(
        torch.from_numpy(texts.vectors[used_texts]), lambda place: {"text": texts.texts[used_texts[place]]}, text_sets
    )
    return image, text, torch.tensor(sorted(pairs))


def one_way(
    asking: Side, asked: Side, pairs: Tensor, *, k: tuple[int, ...], candidates: int | None, seed: int
) -> dict[str, Any]:
    """Metrics with intervals and chance, the recall curve, the histogram of ranks, subsets, and examples.

    Args:
        pairs: (P, 2) of (asking, asked).
        candidates: None: all of `asked`; else each query is asked among this many.
    """
    pairs = pairs[pairs[:, 0].argsort(stable=True)]
    who, query = pairs[:, 0].unique(return_inverse=True)  # not every item of the side asks
    own = torch.stack([query, pairs[:, 1]], 1)
    count = len(asked.vectors) if candidates is None else min(candidates, len(asked.vectors))
    among = None if candidates is None else retrieval.sample_candidates(own, len(asked.vectors), count, seed)
    vectors = asking.vectors[who]
    if among is None:
        place = retrieval.places(vectors, asked.vectors, own)
    else:
        place = retrieval.places_among(among, vectors, asked.vectors, own)
    within = tuple(n for n in k if n <= count) or (1,)
    rank = retrieval.first_places(query, place)
    by = {}
    for name, items in sorted(asking.subsets.items()):
        inside = torch.isin(who, torch.tensor(sorted(items)))[query]
        if inside.any():
            part = query[inside].unique(return_inverse=True)[1]
            measures = retrieval_measures(part, place[inside], count, within, seed)
            by[name] = {"queries": int(part[-1]) + 1, "metrics": _plain(measures)}
    return {
        "queries": len(who),
        "candidates": count,
        "metrics": _plain(retrieval_measures(query, place, count, within, seed)),
        "curve": recall_curve(query, place, count, seed),
        "ranks": histogram(rank.numpy(), _rank_edges(count)),
        "by": by,
        "examples": _examples(asking, asked, who, own, rank, among, seed),
    }


def cosine_histograms(image: Side, text: Side, pairs: Tensor, seed: int) -> dict[str, Any]:
    """Cosines of pictures with their own texts, and with texts drawn from all others."""
    draw = np.random.default_rng(seed)
    chosen = pairs[torch.from_numpy(draw.permutation(len(pairs))[:PLOTTED_PAIRS])]
    matched = (image.vectors[chosen[:, 0]] * text.vectors[chosen[:, 1]]).sum(1)
    belong = set(map(tuple, pairs.tolist()))
    strangers = torch.stack([chosen[:, 0], torch.from_numpy(draw.integers(len(text.vectors), size=len(chosen)))], 1)
    strangers = strangers[[tuple(pair) not in belong for pair in strangers.tolist()]]
    unmatched = (image.vectors[strangers[:, 0]] * text.vectors[strangers[:, 1]]).sum(1)
    both = torch.cat([matched, unmatched])
    edges = np.linspace(float(both.min()), float(both.max()) + 1e-6, 41)
    return {
        "matched": histogram(matched.numpy(), edges) | {"mean": matched.mean().item()},
        "unmatched": histogram(unmatched.numpy(), edges)
        | {"mean": unmatched.mean().item() if len(unmatched) else None},
    }


def _examples(
    asking: Side, asked: Side, who: Tensor, own: Tensor, rank: Tensor, among: Tensor | None, seed: int
) -> dict[str, list[dict[str, Any]]]:
    hits = (rank == 1).nonzero().flatten().tolist()
    drawn = np.random.default_rng(seed).permutation(len(hits))[:EXAMPLES]
    worst = [n for n in rank.argsort(descending=True, stable=True).tolist()[:EXAMPLES] if rank[n] > 1]

    def example(n: int) -> dict[str, Any]:
        columns = torch.arange(len(asked.vectors)) if among is None else among[n]
        right = set(own[own[:, 0] == n, 1].tolist())
        cosines = asked.vectors[columns] @ asking.vectors[who[n]]
        best = cosines.topk(min(ANSWERS, len(columns)))
        return {
            "query": asking.show(int(who[n])),
            "rank": int(rank[n]),
            "wanted": [asked.show(item) for item in sorted(right)[:3]],
            "got": [
                asked.show(int(columns[c])) | {"cosine": round(cosine, 4), "right": int(columns[c]) in right}
                for cosine, c in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ],
        }

    return {"hits": [example(hits[n]) for n in sorted(drawn)], "misses": [example(n) for n in worst]}


def _rank_edges(count: int) -> NDArray[np.float64]:
    beyond = int(np.searchsorted(RANK_EDGES, count, side="right"))
    return np.array(RANK_EDGES[: beyond + 1], np.float64)


def _plain(measures: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    return {name: measure._asdict() for name, measure in measures.items()}
