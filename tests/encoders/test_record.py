"""Columns of a table as tokens: against plain floats, and what missing and unseen values do."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal.encoders import RecordConfig, RecordMlpConfig
from polymodal.errors import ConfigError, ShapeError
from polymodal.types import Record

COLUMNS: dict[str, Any] = {"numbers": 2, "categories": (3, 5)}


def config(**changes: Any) -> RecordConfig:
    return RecordConfig.parse(COLUMNS | {"width": 8, "layers": 2, "heads": 2, "dropout": 0.0} | changes, "test")


def mlp_config(**changes: Any) -> RecordMlpConfig:
    sizes = {"width": 8, "layers": 2, "category_width": 3, "dropout": 0.0}
    return RecordMlpConfig.parse(COLUMNS | sizes | changes, "test")


def built(config: Any) -> Any:
    torch.manual_seed(5)
    model = config.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def record(numbers: list[list[float]], missing: list[list[int]], codes: list[list[int]]) -> Record:
    return Record(torch.tensor(numbers), torch.tensor(missing, dtype=torch.bool), torch.tensor(codes))


RECORD = record([[0.5, -1.25], [2.0, 9.0]], [[0, 0], [0, 1]], [[2, 1], [0, 4]])


def test_tokens_in_plain_floats() -> None:
    model = built(config(layers=0))
    columns = {name: parameter.tolist() for name, parameter in model.columns.named_parameters()}
    table = columns["categories.weight"]  # 3 codes of the first column, then 5 of the second
    linear = [
        [[x * w + b for w, b in zip(columns["weight"][j], columns["bias"][j], strict=True)] for j, x in enumerate(row)]
        for row in RECORD.numbers.tolist()
    ]
    expected = [
        [linear[0][0], linear[0][1], table[2], table[3 + 1]],
        [linear[1][0], columns["missing"][1], table[0], table[3 + 4]],
    ]
    tokens = model(RECORD)
    torch.testing.assert_close(tokens.sequence, torch.tensor(expected))
    means = [[math.fsum(token[d] for token in row) / 4 for d in range(8)] for row in expected]
    torch.testing.assert_close(tokens.pooled, torch.tensor(means))


@torch.no_grad()
def test_mlp_in_plain_floats() -> None:
    model = built(mlp_config(layers=1))
    table = model.categories.weight.tolist()
    x = [2.0, 0.0, 0.0, 1.0, *table[0], *table[3 + 4]]  # the second row: its second number is missing
    linear = model.blocks[0][0]
    expected = [
        max(0.0, math.fsum(w * v for w, v in zip(weights, x, strict=True)) + bias)
        for weights, bias in zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
    ]
    tokens = model(RECORD)
    torch.testing.assert_close(tokens.pooled[1], torch.tensor(expected))
    assert torch.equal(tokens.sequence[:, 0], tokens.pooled)


@torch.no_grad()
def test_the_class_token_is_what_is_pooled() -> None:
    tokens = built(config())(RECORD)
    assert tokens.sequence.shape == (2, 1 + 4, 8)
    assert torch.equal(tokens.pooled, tokens.sequence[:, 0])
    assert tokens.mask.all()


@pytest.mark.parametrize("config", [config(), mlp_config()], ids=["record", "record_mlp"])
@torch.no_grad()
def test_columns_that_change_places_change_the_answer(config: Any) -> None:
    model = built(config)
    swapped = RECORD._replace(numbers=RECORD.numbers.flip(1), missing=RECORD.missing.flip(1))
    assert (model(swapped).pooled - model(RECORD).pooled).abs().max() > 1e-2
    swapped = record([[0.5, -1.25]] * 2, [[0, 0]] * 2, [[1, 2], [2, 1]])
    pooled = model(swapped).pooled
    assert (pooled[0] - pooled[1]).abs().max() > 1e-2


@pytest.mark.parametrize("config", [config(), mlp_config()], ids=["record", "record_mlp"])
@torch.no_grad()
def test_missing_unseen_known_and_zero_are_four_things(config: Any) -> None:
    model = built(config)
    rows = record([[0.0, 0.0]] * 4, [[1, 0], [0, 0], [0, 0], [0, 0]], [[2, 2], [0, 2], [1, 2], [2, 2]])
    pooled = model(rows).pooled
    assert torch.pdist(pooled).min() > 1e-2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("config", [config(), mlp_config()], ids=["record", "record_mlp"])
def test_what_stands_in_a_missing_place_has_no_effect_and_no_gradient(config: Any, value: float) -> None:
    model = built(config)
    spoiled = RECORD._replace(numbers=RECORD.numbers.masked_fill(RECORD.missing, value))
    pooled = model(spoiled).pooled
    assert torch.equal(pooled, model(RECORD).pooled)
    pooled.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("config", [config(), mlp_config()], ids=["record", "record_mlp"])
@torch.no_grad()
def test_a_number_that_is_none_counts_as_missing(config: Any, value: float) -> None:
    model = built(config)
    broken = record([[0.5, value]], [[0, 0]], [[2, 1]])
    assert torch.equal(model(broken).pooled, model(record([[0.5, 0.0]], [[0, 1]], [[2, 1]])).pooled)


def test_a_value_that_was_never_missing_in_training_says_nothing_at_first() -> None:
    model = config(layers=0).build()
    tokens = model(record([[1.0, 1.0]], [[1, 1]], [[0, 0]]))
    assert not tokens.sequence.any()


def test_known_values_pass_for_unseen_in_training_only() -> None:
    torch.manual_seed(1)
    model: Any = config(layers=0, numbers=0, unseen_dropout=0.25).build()
    codes = torch.tensor([[0, 1], [2, 4]]).repeat(2000, 1)
    rows = Record(torch.zeros(4000, 0), torch.zeros(4000, 0, dtype=torch.bool), codes)
    table = model.columns.categories.weight

    def unseen(column: int, row: Tensor) -> Tensor:
        found: Tensor = (model(rows).sequence[:, column] == row).all(1).view(-1, 2)
        return found

    model.eval()
    assert not unseen(0, table[1]).any()
    model.train()
    dropped = unseen(0, table[1])
    assert not dropped[:, 0].any()  # what is missing stays missing
    assert dropped[:, 1].float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert unseen(1, table[3 + 1])[:, 0].all()  # what is unseen stays unseen


@pytest.mark.parametrize("config", [config(), mlp_config()], ids=["record", "record_mlp"])
def test_its_errors(config: Any) -> None:
    model = built(config)
    with pytest.raises(ShapeError, match="wanted 2 columns of numbers and 2 of categories, got 3 and 2; set numbers"):
        model(record([[0.0] * 3], [[0] * 3], [[0, 0]]))
    with pytest.raises(ShapeError, match="codes of category 0 must be from 0 to 2, got 1 to 3; the features and the"):
        model(record([[0.0] * 2] * 2, [[0] * 2] * 2, [[1, 4], [3, 0]]))
    with pytest.raises(ShapeError, match="codes of category 1 must be from 0 to 4, got -1 to -1"):
        model(record([[0.0] * 2], [[0] * 2], [[1, -1]]))


def test_what_the_configs_refuse() -> None:
    for kind in (RecordConfig, RecordMlpConfig):
        with pytest.raises(ConfigError, match="a record needs at least one column: set numbers or categories"):
            kind.parse({}, "test").build()
        with pytest.raises(ConfigError, match=r"categories\.0: Input should be greater than or equal to 2"):
            kind.parse({"categories": (1,)}, "test")
    with pytest.raises(ConfigError, match=r"width must be a multiple of heads \(3\), got 8"):
        config(heads=3)
