"""One way of retrieval on vectors made by hand."""

import pytest
import torch

from polymodal.evaluate.retrieve import Side, one_way

# Four queries and five items: the cosines are the coordinates of the queries.
QUERIES = torch.tensor([
    [0.9, 0.1, 0.0, 0.2, 0.3],  # finds item 0
    [0.8, 0.1, 0.0, 0.2, 0.3],  # wants 1, which is fourth
    [0.1, 0.2, 0.7, 0.3, 0.0],  # finds 2
    [-0.1, -0.2, -0.3, -0.4, -0.5],  # wants 3 or 4: the better of them is fourth
])  # fmt: skip
PAIRS = torch.tensor([[0, 0], [1, 1], [2, 2], [3, 3], [3, 4]])


def side(vectors: torch.Tensor, kind: str = "text") -> Side:
    return Side(vectors, lambda place: {kind: f"{kind} {place}"}, {"odd": {1, 3}, "even": {0, 2}})


def test_ranks_by_hand() -> None:
    result = one_way(side(QUERIES), side(torch.eye(5)), PAIRS, k=(1, 4), candidates=None, seed=0)
    assert result["metrics"]["R@1"]["value"] == 0.5
    assert result["metrics"]["R@4"]["value"] == 1
    assert result["metrics"]["mean_rank"]["value"] == (1 + 4 + 1 + 4) / 4
    assert result["metrics"]["R@1"]["chance"] == pytest.approx((1 / 5 * 3 + 2 / 5) / 4)
    assert result["ranks"] == {"edges": [1, 2, 3, 6], "counts": [2, 0, 2]}
    assert [point["k"] for point in result["curve"]] == [1, 2, 3, 5]


def test_intervals_hold_the_value() -> None:
    result = one_way(side(QUERIES), side(torch.eye(5)), PAIRS, k=(1, 4), candidates=None, seed=0)
    for measure in result["metrics"].values():
        assert measure["low"] <= measure["value"] <= measure["high"]
    assert result["metrics"]["R@1"]["low"] < 0.5 < result["metrics"]["R@1"]["high"]


def test_subsets_ask_among_all_candidates() -> None:
    result = one_way(side(QUERIES), side(torch.eye(5)), PAIRS, k=(1,), candidates=None, seed=0)
    assert {name: (part["queries"], part["metrics"]["R@1"]["value"]) for name, part in result["by"].items()} == {
        "even": (2, 1.0),
        "odd": (2, 0.0),
    }
    assert result["by"]["odd"]["metrics"]["mean_rank"]["value"] == 4


def test_a_query_without_a_pair_does_not_ask() -> None:
    result = one_way(side(QUERIES), side(torch.eye(5)), PAIRS[[0, 2]], k=(1,), candidates=None, seed=0)
    assert (result["queries"], result["metrics"]["R@1"]["value"]) == (2, 1.0)
    assert [hit["query"] for hit in result["examples"]["hits"]] == [{"text": "text 0"}, {"text": "text 2"}]


def test_fewer_candidates_are_easier() -> None:
    few = one_way(side(QUERIES), side(torch.eye(5)), PAIRS, k=(1,), candidates=2, seed=0)
    assert few["candidates"] == 2
    assert few["metrics"]["mean_rank"]["value"] <= 2
    assert few["metrics"]["R@1"]["value"] >= 0.5


def test_examples_show_what_was_wanted_and_what_came() -> None:
    result = one_way(side(QUERIES, "row"), side(torch.eye(5)), PAIRS, k=(1,), candidates=None, seed=0)
    first, second = result["examples"]["misses"]
    assert (first["query"], first["rank"], first["wanted"]) == ({"row": "row 1"}, 4, [{"text": "text 1"}])
    assert first["got"][0] == {"text": "text 0", "cosine": 0.8, "right": False}
    assert [one["right"] for one in first["got"]] == [False, False, False, True, False]
    assert second["wanted"] == [{"text": "text 3"}, {"text": "text 4"}]
    hits = result["examples"]["hits"]
    assert [hit["rank"] for hit in hits] == [1, 1]
    assert hits[0]["got"][0]["right"]
