"""Chance levels against every order there is, counted out."""

from itertools import permutations

import numpy as np
import pytest

from polymodal.metrics.chance import classification_chance, retrieval_chance
from polymodal.metrics.retrieval import mean_average_precision, mean_rank, mean_reciprocal_rank, ndcg_at, ranks


@pytest.mark.parametrize("relevant", [1, 2, 3, 6])
def test_it_is_the_mean_over_all_orders(relevant: int) -> None:
    scores = np.array(list(permutations([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])))
    mask = np.zeros(scores.shape, bool)
    mask[:, :relevant] = True
    rank = ranks(scores, mask)
    chance = retrieval_chance([relevant], 6, k=(1, 4))
    assert chance["R@1"] == pytest.approx((rank <= 1).double().mean().item())
    assert chance["R@4"] == pytest.approx((rank <= 4).double().mean().item())
    assert chance["mean_rank"] == pytest.approx(mean_rank(rank))
    assert chance["MRR"] == pytest.approx(mean_reciprocal_rank(rank))
    assert chance["mAP"] == pytest.approx(mean_average_precision(scores, mask))
    assert chance["nDCG@4"] == pytest.approx(ndcg_at(4, scores, mask))


def test_values_among_300() -> None:
    chance = retrieval_chance([1] * 10, 300)
    assert chance["R@1"] == pytest.approx(1 / 300)
    assert chance["R@10"] == pytest.approx(10 / 300)
    assert chance["median_rank"] == 150
    assert chance["mean_rank"] == 150.5


def test_queries_with_more_relevant_items_weigh_in() -> None:
    assert retrieval_chance([1, 1, 1, 5], 10)["R@1"] == pytest.approx((0.1 * 3 + 0.5) / 4)


def test_all_items_are_found_when_k_is_more_than_there_are() -> None:
    assert retrieval_chance([1], 3, k=(10,))["R@10"] == 1


def test_classification_chance() -> None:
    assert classification_chance(np.array([0, 0, 0, 2]), 4) == {"accuracy": 0.25, "top5": 1.0, "majority": 0.75}
