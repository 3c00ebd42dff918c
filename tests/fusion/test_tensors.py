"""Tensor fusion and its low-rank form."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.errors import ConfigError
from polymodal.fusion.low_rank import LowRank, LowRankConfig
from polymodal.fusion.tensor import TensorConfig, outer_product
from polymodal.types import Tokens
from tests.fusion.small import built, join, tokens


def test_all_products_stand_in_the_outer_product() -> None:
    x, y = [2.0, 3.0], [5.0, 7.0, 11.0]
    wanted = [a * b for a in (1, *x) for b in (1, *y)]
    assert outer_product((torch.tensor([x]), torch.tensor([y])))[0].tolist() == wanted


@torch.no_grad()
def test_one_linear_layer_over_two_inputs_is_the_bilinear_form() -> None:
    config = TensorConfig(inner=3, hidden=None, width=2)
    fusion: Any = config.build({"image": 3, "text": 3})
    weight, bias = fusion.read.weight.view(2, 4, 4), fusion.read.bias
    given = {name: one for name, one in tokens(config).items() if name != "record"}
    given = {name: one._replace(pooled=one.pooled[:, :3]) for name, one in given.items()}
    x, y = fusion.project.vectors(given).unbind(1)
    products = torch.einsum("bi,oij,bj->bo", x, weight[:, 1:, 1:], y)
    wanted = products + x @ weight[:, 1:, 0].T + y @ weight[:, 0, 1:].T + weight[:, 0, 0] + bias
    present = {name: torch.ones(3, dtype=torch.bool) for name in given}
    torch.testing.assert_close(fusion(given, present).pooled, wanted)


@pytest.mark.parametrize(
    ("inner", "inputs", "said"),
    [(64, 3, "274625; set inner to at most 39, or take"), (1, 17, "131072; take")],
)
def test_too_many_products_are_refused_with_a_way_out(inner: int, inputs: int, said: str) -> None:
    widths = {f"input{number}": 8 for number in range(inputs)}
    with pytest.raises(ConfigError, match=f'fusion "tensor": inner must give at most 65536 products.* = {said}'):
        TensorConfig(inner=inner).build(widths)
    if inner > 1:
        TensorConfig(inner=39).build(widths)


def vectors(fusion: LowRank, rows: list[list[float]]) -> torch.Tensor:
    given = {}
    for name, row in zip(fusion.widths, rows, strict=True):
        vector = torch.tensor([row], dtype=fusion.bias.dtype)
        given[name] = Tokens(vector[:, None], torch.ones(1, 1).bool(), vector)
    pooled: torch.Tensor = fusion(given, {name: torch.tensor([True]) for name in given}).pooled
    return pooled[0]


def test_the_known_answer_of_the_low_rank_form() -> None:
    fusion = LowRankConfig(rank=3, width=4).build({"a": 2, "b": 3, "c": 2})
    with torch.no_grad():
        fusion.weight.fill_(1)
        for factor, step in zip(fusion.factors.values(), (0.3, 0.5, 0.7), strict=True):
            factor.copy_(torch.tensor([math.sin(step * n) for n in range(factor.numel())]).view_as(factor))
    got = vectors(fusion, [[0.5, -1], [1, 2, -0.5], [0.3, 0.7]])
    torch.testing.assert_close(got, torch.tensor([-0.163313, -2.286752, -3.909083, -1.742619]), rtol=0, atol=1e-5)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 3), st.integers(0, 10**6))
@settings(deadline=None, max_examples=25)
def test_low_rank_is_the_tensor_form_with_the_contracted_weight(dims: list[int], rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    fusion = LowRankConfig(rank=rank, width=2).build({f"input{n}": dim for n, dim in enumerate(dims)}).double()
    with torch.no_grad():
        fusion.bias.normal_()
    rows = [torch.randn(dim).tolist() for dim in dims]
    wanted = fusion.bias.tolist()
    factors = [factor.tolist() for factor in fusion.factors.values()]
    ones = [[1.0, *row] for row in rows]
    for places in itertools.product(*(range(dim + 1) for dim in dims)):
        product = math.prod(one[place] for one, place in zip(ones, places, strict=True))
        for out in range(2):
            weight = sum(
                fusion.weight[0, r].item()
                * math.prod(factor[r][place][out] for factor, place in zip(factors, places, strict=True))
                for r in range(rank)
            )
            wanted[out] += weight * product
    torch.testing.assert_close(vectors(fusion, rows), torch.tensor(wanted).double())


def test_low_rank_starts_at_a_size_that_can_learn() -> None:
    torch.manual_seed(0)
    widths = {"image": 512, "text": 384, "record": 64}
    fusion = LowRankConfig(width=128).build(widths)
    given = {
        name: Tokens(torch.zeros(64, 1, width), torch.ones(64, 1).bool(), torch.randn(64, width))
        for name, width in widths.items()
    }
    pooled = fusion(given, {name: torch.ones(64, dtype=torch.bool) for name in widths}).pooled
    assert 0.1 < pooled.std().item() < 10
    assert not fusion.bias.any()


def test_maps_are_empty_for_there_is_nothing_to_see() -> None:
    config = TensorConfig(inner=2)
    assert join(built(config), tokens(config), maps=True).maps == {}
