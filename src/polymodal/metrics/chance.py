"""What a model that knows nothing would reach: items in random order, labels drawn without looking.

N items of which r are relevant, all orders equally likely. r may differ from query to query: the values are means over
the queries.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def retrieval_chance(relevant: Sequence[int], items: int, k: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Expected value of each metric of `retrieval.summary` under a random order.

    Args:
        relevant: how many items belong to each query, 1 or more.
        items: N.
    """
    sizes, counts = np.unique(np.asarray(relevant), return_counts=True)
    weights = counts / counts.sum()
    beyond = sum(weight * _none_among_first(int(r), items) for r, weight in zip(sizes, weights, strict=True))
    places = np.arange(1, items + 1)
    harmonic = float((1 / places).sum())
    # P(item i is relevant and j < i is too) = r (r - 1) / (N (N - 1)), summed over i and j < i, divided by i and r.
    precision = (harmonic + (sizes - 1) / max(1, items - 1) * (items - harmonic)) / items
    return {
        **{f"R@{n}": float(1 - beyond[min(n, items)]) for n in k},
        "median_rank": float(np.argmax(beyond <= 0.5 + 1e-9)),
        "mean_rank": float(weights @ ((items + 1) / (sizes + 1))),
        "MRR": float(((beyond[:-1] - beyond[1:]) / places).sum()),
        "mAP": float(weights @ precision),
        f"nDCG@{max(k)}": float(sum(w * _ndcg(int(r), items, max(k)) for r, w in zip(sizes, weights, strict=True))),
    }


def _none_among_first(relevant: int, items: int) -> NDArray[np.float64]:
    """(N + 1,): probability that no relevant item is among the first 0, 1, ..., N of a random order."""
    drawn = np.arange(items)
    return np.concatenate([[1.0], np.cumprod(np.clip(1 - relevant / (items - drawn), 0, 1))])


def _ndcg(relevant: int, items: int, k: int) -> float:
    discount = 1 / np.log2(np.arange(1, min(k, items) + 1) + 1)
    return float(relevant / items * discount.sum() / discount[:relevant].sum())


def classification_chance(labels: NDArray[np.integer], classes: int) -> dict[str, float]:
    """Accuracy of a uniform guess (1 / classes) and of always naming the most frequent label."""
    return {
        "accuracy": 1 / classes,
        "top5": min(5, classes) / classes,
        "majority": float(np.bincount(labels).max() / len(labels)),
    }
