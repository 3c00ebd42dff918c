"""A measured value with its confidence interval and its chance level."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from polymodal.metrics import classification, retrieval
from polymodal.metrics.chance import classification_chance, retrieval_chance
from polymodal.metrics.intervals import Statistic, bootstrap, mean_of, median_of


class Measure(NamedTuple):
    value: float
    low: float  # 95 % interval
    high: float
    chance: float | None  # what a model that knows nothing reaches, where it is known


Measures = dict[str, Measure]


def _measure(statistic: Statistic, count: int, chance: float | None, seed: int) -> Measure:
    (value,) = statistic(np.arange(count)[None])
    low, high = bootstrap(statistic, count, seed=seed)
    return Measure(float(value), low, high, chance)


def retrieval_measures(query: Tensor, place: Tensor, items: int, k: tuple[int, ...], seed: int) -> Measures:
    """Every metric of `retrieval.summary`.

    Args:
        query: (P,), 0 to Q - 1, rising, and
        place: (P,), the place of each relevant item among `items`.
    """
    rank = retrieval.first_places(query, place).double().numpy()
    ndcg = f"nDCG@{max(k)}"
    statistics = {
        **{f"R@{n}": mean_of(rank <= n) for n in k},
        "median_rank": median_of(rank),
        "mean_rank": mean_of(rank),
        "MRR": mean_of(1 / rank),
        "mAP": mean_of(retrieval.average_precisions(query, place).numpy()),
        ndcg: mean_of(retrieval.ndcgs(max(k), query, place).numpy()),
    }
    chance = retrieval_chance(query.bincount().tolist(), items, k)
    return {name: _measure(one, len(rank), chance[name], seed) for name, one in statistics.items()}


def recall_curve(query: Tensor, place: Tensor, items: int, seed: int) -> list[dict[str, float]]:
    """R@k for k from 1 to 100 (or all items), with interval and chance."""
    rank = retrieval.first_places(query, place).numpy()
    steps = [k for k in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100) if k <= items]
    chance = retrieval_chance(query.bincount().tolist(), items, steps)
    return [{"k": float(k)} | _measure(mean_of(rank <= k), len(rank), chance[f"R@{k}"], seed)._asdict() for k in steps]


def classification_measures(
    scores: NDArray[np.floating[Any]], labels: NDArray[np.int64], seed: int
) -> tuple[Measures, NDArray[np.int64]]:
    """accuracy, top5 (with more than 5 classes) and f1_macro; and the predictions (n,).

    Args:
        scores: (n, C).
        labels: (n,), 0 to C - 1.
    """
    classes = scores.shape[1]
    chance = classification_chance(labels, classes)
    predictions = scores.argmax(1)
    count = len(labels)
    hits = {"accuracy": classification.top_k_hits(1, scores, labels)}
    if classes > 5:
        hits["top5"] = classification.top_k_hits(5, scores, labels)
    measures = {name: _measure(mean_of(hit), count, chance[name], seed) for name, hit in hits.items()}

    def f1(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return classification.resampled_macro_f1(labels, predictions, rows)

    return measures | {"f1_macro": _measure(f1, count, None, seed)}, predictions


def histogram(values: NDArray[np.floating[Any]], edges: NDArray[np.float64]) -> dict[str, list[float]]:
    counts, edges = np.histogram(values, edges)
    return {"edges": [round(float(edge), 6) for edge in edges], "counts": counts.tolist()}
