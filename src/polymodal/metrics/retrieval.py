"""Retrieval: does each query find what belongs to it among N items?

Q queries; N items; P pairs of a query and an item that belongs to it; D width.

Ties count against: an item that does not belong to the query and scores the same stands before one that does, so that a
model that always answers alike is last, not first. Scores may be any finite numbers, negative cosines included.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.errors import DataError, ShapeError

Array = Tensor | NDArray[np.generic]

_SCORES_AT_ONCE = 1 << 24  # 64 MiB of float32: what is held of the (Q, N) matrix at any time


def ranks(scores: Array, relevant: Array) -> Tensor:
    """Place of each query's best relevant item, (Q,) int64: 1 is best.

    1 + the number of irrelevant items that score as high or higher.

    Args:
        scores: (Q, N), any finite numbers; higher is nearer.
        relevant: (Q, N) bool, or (Q,) int64 with the column of each query's one item.

    Raises:
        DataError: a score is not finite, or a query has no relevant item.
        ShapeError: the shapes do not fit.
    """
    scores, mask = _checked(scores, relevant)
    best = scores.masked_fill(~mask, -torch.inf).amax(1, keepdim=True)
    return 1 + ((scores >= best) & ~mask).sum(1)


def recall_at(k: int, ranks: Array) -> float:
    """Share of queries, 0 to 1, that have a relevant item among the k best (R@k)."""
    return (torch.as_tensor(ranks) <= k).double().mean().item()


def median_rank(ranks: Array) -> float:
    """Median place of the best relevant item, 1 to N; between two places for an even number of queries."""
    return float(np.median(torch.as_tensor(ranks).numpy(force=True)))


def mean_rank(ranks: Array) -> float:
    """Mean place of the best relevant item, 1 to N."""
    return torch.as_tensor(ranks).double().mean().item()


def mean_reciprocal_rank(ranks: Array) -> float:
    """Mean of 1 / rank, 0 to 1 (MRR)."""
    return (1 / torch.as_tensor(ranks).double()).mean().item()


def ndcg_at(k: int, scores: Array, relevance: Array) -> float:
    """Mean normalized discounted cumulative gain of the k best, 0 to 1, with linear gain.

    DCG = sum over places i of relevance_i / log2(i + 1), divided by the DCG of the best order. Linear gain is the
    default of trec_eval and scikit-learn; 2^relevance - 1 is a different metric. Among equal scores the less relevant
    item comes first, where scikit-learn averages over their orders.

    Args:
        scores: (Q, N).
        relevance: (Q, N), 0 or more, graded or 0/1.

    Raises:
        DataError: a score is not finite, or a query has no relevance above 0.
    """
    gains = torch.as_tensor(relevance).double()
    scores, _ = _checked(scores, gains > 0)
    rising = gains.argsort(1)
    order = rising.gather(1, scores.gather(1, rising).argsort(dim=1, descending=True, stable=True))
    places = torch.arange(1, min(k, gains.shape[1]) + 1, device=gains.device)
    discount = 1 / (places + 1).double().log2()
    found = gains.gather(1, order)[:, :k] @ discount
    best = gains.sort(1, descending=True).values[:, :k] @ discount
    return (found / best).mean().item()


def mean_average_precision(scores: Array, relevant: Array) -> float:
    """Mean over queries of the mean precision at each relevant item's place, 0 to 1 (mAP).

    Args and Raises as for `ranks`.
    """
    scores, mask = _checked(scores, relevant)
    pairs = mask.nonzero().cpu()
    return average_precisions(pairs[:, 0], _places(scores.cpu().clone(), pairs)).mean().item()


def places(queries: Array, items: Array, pairs: Array) -> Tensor:
    """Place of every relevant item among all items, (P,) int64, in the order of `pairs`.

    The (Q, N) matrix of scores is walked in chunks of 64 MiB and never held whole.

    Args:
        queries: (Q, D) and
        items: (N, D), vectors whose dot product is the score; of unit length for cosines.
        pairs: (P, 2) int64, every (query, item) that belong together, sorted by query, none twice.

    Raises:
        DataError: a vector is not finite, or a query has no pair.
    """
    queries, items = _finite("query vectors", queries), _finite("item vectors", items)
    pairs = torch.as_tensor(pairs)
    _check_pairs(pairs, len(queries), len(items))
    starts = torch.searchsorted(pairs[:, 0].contiguous(), torch.arange(len(queries) + 1)).tolist()
    step = max(1, _SCORES_AT_ONCE // max(1, len(items)))
    found = []
    for low in range(0, len(queries), step):
        high = min(low + step, len(queries))
        own = pairs[starts[low] : starts[high]] - torch.tensor([low, 0])
        found.append(_places((queries[low:high] @ items.T).cpu(), own))
    return torch.cat(found)


def sample_candidates(pairs: Array, items: int, candidates: int, seed: int = 0) -> Tensor:
    """(Q, candidates) int64: for each query its own items first, then others drawn at random, none twice.

    Every query is asked among its own draw, so that all queries count and the expected value is that of one shared
    draw, with less noise.

    Args:
        pairs: as for `places`.
        items: N, of which they are drawn; at least `candidates`.

    Raises:
        DataError: there are fewer items than candidates, or a query has more relevant items than candidates.
    """
    query, item = torch.as_tensor(pairs).unbind(1)
    most = int(query.bincount().max())
    if not most <= candidates <= items:
        raise DataError(
            f"retrieval: candidates must be in [{most}, {items}] (the most items that belong to one query, and all "
            f"items), got {candidates}"
        )
    draw = np.random.default_rng(seed)
    drawn = []
    for own in np.split(item.numpy(), query.bincount().cumsum(0)[:-1].numpy()):
        others = draw.choice(items, candidates, replace=False)
        drawn.append(np.concatenate([own, others[~np.isin(others, own)][: candidates - len(own)]]))
    return torch.from_numpy(np.stack(drawn))


def places_among(candidates: Array, queries: Array, items: Array, pairs: Array) -> Tensor:
    """`places`, each query among its own row of `candidates` (Q, C) as `sample_candidates` gives it."""
    queries, items = _finite("query vectors", queries), _finite("item vectors", items)
    candidates, pairs = torch.as_tensor(candidates), torch.as_tensor(pairs)
    _check_pairs(pairs, len(queries), len(items))
    column = _nth(pairs[:, 0]) - 1
    step = max(1, _SCORES_AT_ONCE // (candidates.shape[1] * items.shape[1]))
    found = []
    for part in _parts(len(queries), step):
        scores = torch.einsum("qd,qcd->qc", queries[part], items[candidates[part]])
        inside = (pairs[:, 0] >= part.start) & (pairs[:, 0] < part.stop)
        found.append(_places(scores.cpu(), torch.stack([pairs[inside, 0] - part.start, column[inside]], 1)))
    return torch.cat(found)


def first_places(query: Tensor, place: Tensor) -> Tensor:
    """Rank of each query, (Q,): the best of its places. `query` (P,) is 0 to Q - 1, rising."""
    count = int(query[-1]) + 1
    return torch.full((count,), torch.iinfo(torch.int64).max).scatter_reduce(0, query, place, "amin")


def average_precisions(query: Tensor, place: Tensor) -> Tensor:
    """Average precision of each query, (Q,) float64, of the places (P,) of its relevant items."""
    order, nth, counts = _by_place(query, place)
    precision = nth.double() / place[order].double()
    return torch.zeros(len(counts), dtype=torch.float64).index_add(0, query[order], precision) / counts


def ndcgs(k: int, query: Tensor, place: Tensor) -> Tensor:
    """nDCG@k of each query, (Q,) float64, of the places (P,) of its relevant items, each of relevance 1."""
    order, nth, counts = _by_place(query, place)
    found = torch.where(place <= k, 1 / (place + 1).double().log2(), 0)
    best = torch.where(nth <= k, 1 / (nth + 1).double().log2(), 0)
    zeros = torch.zeros(len(counts), dtype=torch.float64)
    return zeros.index_add(0, query, found) / zeros.index_add(0, query[order], best)


def summary(query: Tensor, place: Tensor, k: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """R@k for each k, median_rank, mean_rank, MRR, mAP and nDCG@(largest k), of the places of all relevant items."""
    rank = first_places(query, place)
    return {
        **{f"R@{n}": recall_at(n, rank) for n in k},
        "median_rank": median_rank(rank),
        "mean_rank": mean_rank(rank),
        "MRR": mean_reciprocal_rank(rank),
        "mAP": average_precisions(query, place).mean().item(),
        f"nDCG@{max(k)}": ndcgs(max(k), query, place).mean().item(),
    }


def retrieval_report(
    image_vectors: Array, text_vectors: Array, text_to_image: Array, k: Sequence[int] = (1, 5, 10)
) -> dict[str, dict[str, float]]:
    """`summary` both ways: {"image_to_text": {"R@1": ...}, "text_to_image": {...}}.

    With several captions an image, image to text counts the best of them.

    Args:
        image_vectors: (I, D), unit length.
        text_vectors: (T, D), unit length.
        text_to_image: (T,) int64, the row of the image that each text belongs to; every image has at least one.

    Raises:
        DataError: a vector is not finite, or an image has no text.
    """
    owner = torch.as_tensor(text_to_image).long()
    return pairs_report(image_vectors, text_vectors, torch.stack([torch.arange(len(owner)), owner], 1), k)


def pairs_report(
    image_vectors: Array, text_vectors: Array, pairs: Tensor, k: Sequence[int] = (1, 5, 10)
) -> dict[str, dict[str, float]]:
    """`retrieval_report` where a text, too, may belong to several images.

    Args:
        image_vectors: (I, D), unit length.
        text_vectors: (T, D), unit length; a text that occurs twice would be its own rival, so each stands here once.
        pairs: (P, 2) int64, a text and an image that belong together; each text and each image is in one at least.
    """
    by_text = pairs[pairs[:, 0].argsort(stable=True)]
    by_image = pairs[pairs[:, 1].argsort(stable=True)].flip(1)
    return {
        "image_to_text": summary(by_image[:, 0], places(image_vectors, text_vectors, by_image), k),
        "text_to_image": summary(by_text[:, 0], places(text_vectors, image_vectors, by_text), k),
    }


def _places(scores: Tensor, pairs: Tensor) -> Tensor:
    """`places` of given scores (Q, N), on the CPU, which are overwritten."""
    query, item = pairs.unbind(1)
    own = scores[query, item]
    scores[query, item] = -torch.inf  # fellows do not stand in each other's way: their order is counted below
    nth = _nth(query)
    before = torch.empty_like(query)
    for n in range(1, int(nth.max()) + 1):
        chosen = nth == n
        rows = scores if chosen.sum() == len(scores) else scores[query[chosen]]
        # numpy counts a bool row twenty times as fast as torch sums it.
        before[chosen] = torch.from_numpy(np.count_nonzero((rows >= own[chosen, None]).numpy(), axis=1))
    by_score = own.argsort(descending=True, stable=True)
    by_score = by_score[query[by_score].argsort(stable=True)]
    among_fellows = torch.empty_like(query)
    among_fellows[by_score] = nth
    return before + among_fellows


def _parts(count: int, step: int) -> Iterator[slice]:
    return (slice(low, low + step) for low in range(0, count, step))


def _by_place(query: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The order by query, then place; 1, 2, 3, ... within each query of that order; how many each query has."""
    order = place.argsort(stable=True)
    order = order[query[order].argsort(stable=True)]
    return order, _nth(query[order]), query.bincount()


def _nth(query: Tensor) -> Tensor:
    """1, 2, 3, ... within each run of equal numbers of `query` (P,), which rises."""
    counts = query.bincount()
    return torch.arange(1, len(query) + 1) - (counts.cumsum(0) - counts)[query]


def _finite(what: str, vectors: Array) -> Tensor:
    vectors = torch.as_tensor(vectors)
    bad = (~torch.isfinite(vectors)).any(1).nonzero().flatten()
    if len(bad):
        raise DataError(
            f"retrieval: {len(bad)} of {len(vectors)} {what} hold numbers that are not finite, first: row {bad[0]}"
        )
    return vectors


def _check_pairs(pairs: Tensor, queries: int, items: int) -> None:
    if not queries or not items:
        raise DataError(f"retrieval: wanted queries and items, got {queries} queries and {items} items")
    if pairs[:, 1].min() < 0 or pairs[:, 1].max() >= items:
        raise DataError(f"retrieval: a query's item must be in [0, {items}), got {_outside(pairs[:, 1], items)}")
    alone = queries - len(pairs[:, 0].unique())
    if alone:
        raise DataError(f"retrieval: {alone} of {queries} queries have no relevant item")


def _outside(column: Tensor, count: int) -> int:
    return int(column[(column < 0) | (column >= count)][0])


def _checked(scores: Array, relevant: Array) -> tuple[Tensor, Tensor]:
    scores, relevant = torch.as_tensor(scores), torch.as_tensor(relevant)
    if scores.ndim != 2 or relevant.shape not in (scores.shape, scores.shape[:1]):
        raise ShapeError(
            "retrieval: wanted scores (Q, N) and relevant (Q, N) or (Q,), "
            f"got {tuple(scores.shape)} and {tuple(relevant.shape)}"
        )
    if not torch.isfinite(scores).all():
        raise DataError(f"retrieval: {(~torch.isfinite(scores)).sum()} of {scores.numel()} scores are not finite")
    if relevant.ndim == 1:
        pairs = torch.stack([torch.arange(len(relevant)), relevant.long().cpu()], 1)
        _check_pairs(pairs, *scores.shape)
        own = relevant.long()[:, None]
        relevant = torch.zeros_like(scores, dtype=torch.bool).scatter(1, own, torch.ones_like(own, dtype=torch.bool))
    relevant = relevant.bool()
    if not relevant.any(1).all():
        raise DataError(f"retrieval: {(~relevant.any(1)).sum()} of {len(scores)} queries have no relevant item")
    return scores, relevant
