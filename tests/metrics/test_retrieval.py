"""Retrieval metrics against slow versions in plain Python, and the cases that retrieval code usually leaves open."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from polymodal.errors import DataError, ShapeError
from polymodal.metrics import retrieval
from polymodal.metrics.retrieval import (
    mean_average_precision,
    mean_rank,
    mean_reciprocal_rank,
    median_rank,
    ndcg_at,
    pairs_report,
    places,
    places_among,
    ranks,
    recall_at,
    retrieval_report,
    sample_candidates,
)

score = st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5])  # cosines, and few enough values that many tie


def worst_order(row: list[float], relevant: list[bool]) -> list[bool]:
    """Relevance by place when the judge puts irrelevant items first among equals."""
    order = sorted(range(len(row)), key=lambda j: (-row[j], relevant[j]))
    return [relevant[j] for j in order]


rows_and_relevance = st.integers(2, 6).flatmap(
    lambda n: st.lists(
        st.tuples(
            st.lists(score, min_size=n, max_size=n),
            st.lists(st.booleans(), min_size=n, max_size=n).filter(any),
        ),
        min_size=1,
        max_size=5,
    )
)


@given(rows_and_relevance)
def test_a_rank_is_the_first_relevant_place_in_the_worst_order(cases: list[tuple[list[float], list[bool]]]) -> None:
    expected = [worst_order(row, relevant).index(True) + 1 for row, relevant in cases]
    scores, relevant = torch.tensor([c[0] for c in cases]), torch.tensor([c[1] for c in cases])
    assert ranks(scores, relevant).tolist() == expected


@given(rows_and_relevance)
def test_mean_average_precision_is_the_formula_on_the_worst_order(cases: list[tuple[list[float], list[bool]]]) -> None:
    def one(row: list[float], relevant: list[bool]) -> float:
        order = worst_order(row, relevant)
        hits = [sum(order[: i + 1]) / (i + 1) for i, hit in enumerate(order) if hit]
        return sum(hits) / len(hits)

    expected = sum(one(*case) for case in cases) / len(cases)
    scores, relevant = torch.tensor([c[0] for c in cases]), torch.tensor([c[1] for c in cases])
    assert mean_average_precision(scores, relevant) == pytest.approx(expected, rel=1e-12)


@given(rows_and_relevance, st.integers(1, 7))
def test_ndcg_is_the_formula_on_the_worst_order(cases: list[tuple[list[float], list[bool]]], k: int) -> None:
    def one(row: list[float], relevant: list[bool]) -> float:
        order = worst_order(row, relevant)
        found = sum(1 / math.log2(i + 2) for i, hit in enumerate(order[:k]) if hit)
        return found / sum(1 / math.log2(i + 2) for i in range(min(k, sum(order))))

    expected = sum(one(*case) for case in cases) / len(cases)
    scores, relevant = torch.tensor([c[0] for c in cases]), torch.tensor([c[1] for c in cases])
    assert ndcg_at(k, scores, relevant) == pytest.approx(expected, rel=1e-12)


def test_ndcg_has_linear_gain() -> None:
    # The value that trec_eval, scikit-learn and torchmetrics give.
    assert ndcg_at(5, np.array([[0.1, 0.2, 0.3, 4, 70]]), np.array([[10, 0, 0, 1, 5]])) == pytest.approx(
        0.695694, abs=5e-7
    )


@pytest.mark.parametrize("k", [1, 3, 50])
def test_ndcg_and_map_agree_with_scikit_learn_where_nothing_ties(k: int) -> None:
    draw = np.random.default_rng(3)
    scores, grades = draw.normal(size=(7, 50)), draw.integers(0, 4, size=(7, 50))
    assert ndcg_at(k, scores, grades) == pytest.approx(ndcg_score(grades, scores, k=k), rel=1e-12)
    rows = [average_precision_score(g > 0, s) for g, s in zip(grades, scores, strict=True)]
    assert mean_average_precision(scores, grades > 0) == pytest.approx(np.mean(rows), rel=1e-12)


def test_a_shift_of_all_scores_changes_nothing() -> None:
    scores = torch.tensor([[-0.1, -0.2, -0.3], [-0.9, -0.8, -0.7]])
    own = torch.tensor([0, 1])
    assert ranks(scores, own).tolist() == ranks(scores + 1, own).tolist() == [1, 2]


def test_equal_scores_of_two_relevant_items_do_not_count_against_each_other() -> None:
    assert ranks(torch.tensor([[0.5, 0.5, 0.1]]), torch.tensor([[True, True, False]])).tolist() == [1]


def test_a_model_that_answers_always_the_same_is_last() -> None:
    alike = torch.ones(4, 2)
    report = retrieval_report(alike, alike, torch.arange(4))
    assert report["image_to_text"]["R@1"] == report["text_to_image"]["R@1"] == 0
    assert report["image_to_text"]["median_rank"] == 4


def test_values_on_four_ranks() -> None:
    found = torch.tensor([1, 2, 3, 10])
    assert recall_at(1, found) == 0.25
    assert recall_at(2, found) == 0.5  # the kth place counts too
    assert median_rank(found) == 2.5
    assert mean_rank(found) == 4
    assert mean_reciprocal_rank(found) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 10) / 4)


def unit(count: int, width: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1
    )


def slow_report(image: torch.Tensor, text: torch.Tensor, owner: list[int]) -> dict[str, float]:
    scores = (image @ text.T).tolist()
    to_text = [worst_order(row, [o == i for o in owner]).index(True) + 1 for i, row in enumerate(scores)]
    columns = [[row[t] for row in scores] for t in range(len(owner))]
    to_image = [
        worst_order(c, [i == owner[t] for i in range(len(scores))]).index(True) + 1 for t, c in enumerate(columns)
    ]
    return {
        "i2t": sum(rank <= 5 for rank in to_text) / len(to_text),
        "i2t mean": sum(to_text) / len(to_text),
        "t2i": sum(rank <= 5 for rank in to_image) / len(to_image),
        "t2i MRR": sum(1 / rank for rank in to_image) / len(to_image),
    }


OWNER = [2, 0, 0, 1, 3, 4, 4, 4, 5, 6, 7, 7, 8, 9, 9, 10, 11]  # one to three captions an image, not in order


@pytest.mark.parametrize("at_once", [1, 25, 1 << 24])
def test_the_report_is_the_slow_one_whatever_the_chunks(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_SCORES_AT_ONCE", at_once)
    image, text = unit(12), unit(len(OWNER), seed=1)
    report = retrieval_report(image, text, torch.tensor(OWNER))
    expected = slow_report(image, text, OWNER)
    assert report["image_to_text"]["R@5"] == pytest.approx(expected["i2t"])
    assert report["image_to_text"]["mean_rank"] == pytest.approx(expected["i2t mean"])
    assert report["text_to_image"]["R@5"] == pytest.approx(expected["t2i"])
    assert report["text_to_image"]["MRR"] == report["text_to_image"]["mAP"] == pytest.approx(expected["t2i MRR"])


def test_the_report_does_not_care_in_which_order_the_texts_and_pictures_come() -> None:
    image, text, owner = unit(12), unit(len(OWNER), seed=1), torch.tensor(OWNER)
    texts = torch.randperm(len(OWNER), generator=torch.Generator().manual_seed(5))
    images = torch.randperm(12, generator=torch.Generator().manual_seed(6))
    back = images.argsort()
    shuffled = retrieval_report(image[images], text[texts], back[owner[texts]])
    plain = retrieval_report(image, text, owner)
    for way in plain:
        assert shuffled[way] == pytest.approx(plain[way], rel=1e-12)


def test_perfect_vectors_have_perfect_values() -> None:
    report = retrieval_report(torch.eye(5), torch.eye(5).repeat_interleave(2, 0), torch.arange(5).repeat_interleave(2))
    for way in report.values():
        assert way["R@1"] == way["mAP"] == way["MRR"] == way["nDCG@10"] == way["median_rank"] == 1


def test_the_report_agrees_with_the_metrics_of_the_whole_matrix() -> None:
    image, text, owner = unit(12), unit(len(OWNER), seed=1), torch.tensor(OWNER)
    report = retrieval_report(image, text, owner, k=(3,))["image_to_text"]
    scores, relevant = image @ text.T, owner[None] == torch.arange(12)[:, None]
    assert report["mAP"] == pytest.approx(mean_average_precision(scores, relevant))
    assert report["nDCG@3"] == pytest.approx(ndcg_at(3, scores, relevant))


BY_IMAGE = torch.tensor(sorted((image, text) for text, image in enumerate(OWNER)))


@pytest.mark.parametrize("at_once", [1, 300, 1 << 24])
def test_places_among_all_are_the_places(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_SCORES_AT_ONCE", at_once)
    image, text = unit(12), unit(len(OWNER), seed=1)
    everything = sample_candidates(BY_IMAGE, len(OWNER), len(OWNER))
    among = places_among(everything, image, text, BY_IMAGE)
    assert among.tolist() == places(image, text, BY_IMAGE).tolist()


def test_places_among_a_few_are_those_of_a_plain_loop() -> None:
    image, text = unit(12), unit(len(OWNER), seed=1)
    candidates = sample_candidates(BY_IMAGE, len(OWNER), 6, seed=4)
    found = places_among(candidates, image, text, BY_IMAGE)
    for (query, item), place in zip(BY_IMAGE.tolist(), found.tolist(), strict=True):
        row = [float(image[query] @ text[t]) for t in candidates[query].tolist()]
        own = float(image[query] @ text[item])
        assert place == sum(score > own for score in row) + 1


@given(st.integers(3, 17), st.integers(0, 5))
def test_sampled_candidates_hold_the_own_items_first_and_none_twice(count: int, seed: int) -> None:
    candidates = sample_candidates(BY_IMAGE, len(OWNER), count, seed)
    for image, row in enumerate(candidates.tolist()):
        own = [text for text, owner in enumerate(OWNER) if owner == image]
        assert row[: len(own)] == own
        assert len(set(row)) == count
    assert candidates.tolist() == sample_candidates(BY_IMAGE, len(OWNER), count, seed).tolist()


def test_every_other_item_is_drawn_as_often() -> None:
    one = torch.tensor([[0, 3]])
    drawn = (
        torch.cat([sample_candidates(one, 8, 3, seed)[:, 1:] for seed in range(700)]).flatten().bincount(minlength=8)
    )
    assert drawn[3] == 0
    assert drawn.sum() == 1400
    assert drawn[[0, 1, 2, 4, 5, 6, 7]].float().std() < 30  # 200 each, a standard deviation of 12 each


@pytest.mark.parametrize("count", [2, 18])
def test_more_candidates_than_items_and_fewer_than_belong_to_a_query_are_refused(count: int) -> None:
    with pytest.raises(DataError, match=rf"candidates must be in \[3, 17\] .*, got {count}"):
        sample_candidates(BY_IMAGE, len(OWNER), count)


def test_it_does_not_count_what_is_not_a_number() -> None:
    with pytest.raises(DataError, match="1 of 4 scores are not finite"):
        ranks(torch.tensor([[0.5, float("nan")], [0.1, 0.2]]), torch.arange(2))


def test_it_names_the_first_vector_that_is_not_a_number() -> None:
    image = torch.eye(3)
    image[1, 0] = float("inf")
    with pytest.raises(DataError, match="1 of 3 query vectors hold numbers that are not finite, first: row 1"):
        retrieval_report(image, torch.eye(3), torch.arange(3))


def test_a_query_without_a_relevant_item_is_refused() -> None:
    with pytest.raises(DataError, match="1 of 2 queries have no relevant item"):
        ranks(torch.eye(2), torch.tensor([[True, False], [False, False]]))
    with pytest.raises(DataError, match="1 of 3 queries have no relevant item"):
        retrieval_report(torch.eye(3), torch.eye(3)[:2], torch.tensor([0, 1]))


def test_an_item_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DataError, match=r"must be in \[0, 2\), got 2"):
        ranks(torch.eye(2), torch.tensor([0, 2]))


def test_no_queries_are_refused() -> None:
    with pytest.raises(DataError, match="got 0 queries and 3 items"):
        places(torch.zeros(0, 2), torch.zeros(3, 2), torch.zeros(0, 2, dtype=torch.int64))


def test_its_error_names_both_shapes() -> None:
    with pytest.raises(ShapeError, match=r"got \(2, 3\) and \(3,\)"):
        ranks(torch.zeros(2, 3), torch.arange(3))


def test_a_text_of_several_images_finds_the_best_of_them_and_is_no_rival_of_its_own() -> None:
    image = torch.eye(3)
    text = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # the first belongs to two images
    report = pairs_report(image, text, torch.tensor([[0, 1], [1, 2], [0, 0]]), k=(1,))
    assert report["image_to_text"]["R@1"] == 1.0
    assert report["text_to_image"]["R@1"] == 1.0  # its two images tie, and either is right
    report = pairs_report(image, text[[0, 0, 1]], torch.tensor([[0, 1], [2, 2], [1, 0]]), k=(1,))
    assert report["image_to_text"]["R@1"] == pytest.approx(1 / 3)  # the same text twice: each is the other's rival
