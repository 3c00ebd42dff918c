"""Co-attention for any two inputs; that it is ViLBERT's stands in tests/models/test_vilbert.py."""

from typing import Any

import pytest
import torch

from polymodal.errors import ConfigError, ShapeError
from polymodal.fusion.coattention import CoattentionConfig
from polymodal.types import Tokens
from tests.fusion.small import here

WIDTHS = {"sound": 6, "record": 4}  # any two inputs, of any widths


def config(**changes: Any) -> CoattentionConfig:
    streams = {name: {"layers": [1, 0], "heads": 2} for name in ("first", "second")}
    return CoattentionConfig.parse({"width": 8, "heads": 2} | streams | changes, "recipe")


def built(**changes: Any) -> Any:
    torch.manual_seed(1)
    model = config(**changes).build(WIDTHS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def tokens() -> dict[str, Tokens]:
    draw = torch.Generator().manual_seed(2)
    return {
        name: Tokens(
            torch.randn(2, length, WIDTHS[name], generator=draw),
            torch.ones(2, length, dtype=torch.bool),
            torch.randn(2, WIDTHS[name], generator=draw),
        )
        for name, length in (("sound", 5), ("record", 3))
    }


@torch.no_grad()
def test_maps_go_by_the_names_of_the_inputs() -> None:
    fused = built()(tokens(), here(tokens()), maps=True)
    assert {name: tuple(looks.shape) for name, looks in fused.maps.items()} == {
        "sound->record.0": (2, 2, 5, 3),
        "record->sound.0": (2, 2, 3, 5),
        "sound->record.1": (2, 2, 5, 3),
        "record->sound.1": (2, 2, 3, 5),
    }


@torch.no_grad()
def test_an_input_of_which_nothing_is_real_gives_numbers_all_the_same() -> None:
    given = tokens()
    sequence, mask, pooled = given["record"]
    given["record"] = Tokens(sequence, torch.zeros_like(mask), pooled)
    fused = built()(given, here(given), maps=True)
    parts = [fused.pooled, *(one.sequence for one in fused.tokens.values()), *fused.maps.values()]
    assert all(torch.isfinite(part).all() for part in parts)


@torch.no_grad()
def test_a_joint_state_is_a_product_or_a_sum() -> None:
    product, added = built(), built(join="sum")
    given = tokens()
    wanted = [
        pooler(product(given, here(given)).tokens[name].sequence[:, 0])
        for name, pooler in zip(WIDTHS, product.poolers, strict=True)
    ]
    torch.testing.assert_close(product(given, here(given)).pooled, wanted[0] * wanted[1])
    torch.testing.assert_close(added(given, here(given)).pooled, wanted[0] + wanted[1])


def test_layers_stand_behind_the_connection_that_they_are_counted_at() -> None:
    model = built(first={"layers": [0, 3], "heads": 2}, second={"layers": [2, 0], "heads": 1})
    counts = [[len(stack) for stack in stage.layers] for stage in model.stages]
    assert counts == [[0, 2], [3, 0]]


def test_dropout_is_a_matter_of_training() -> None:
    model, given = built(dropout=0.5), tokens()
    with torch.no_grad():
        assert torch.equal(model(given, here(given)).pooled, model(given, here(given)).pooled)
        model.train()
        assert not torch.equal(model(given, here(given)).pooled, model(given, here(given)).pooled)


def test_weights_start_as_those_of_bert() -> None:
    torch.manual_seed(0)
    model: Any = CoattentionConfig(width=256).build({"text": 256, "image": 256})
    side = model.stages[0].connection.first
    assert side.qkv.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not side.qkv.bias.any()
    assert (side.norm1.weight == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, r"recipe: .*width must be a multiple of heads \(3\), got 8"),
        ({"first": {"layers": [1]}}, r"one number for each connection, got 1 and 2 numbers"),
        ({"first": {"layers": [1, -1]}}, r"layers must be at least 0"),
        ({"first": {"layers": []}}, r"first\.layers"),
    ],
)
def test_a_config_that_fits_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r'fusion "coattention" must have exactly 2 inputs, got 3 \(a, b, c\); .*"late" take any number',
    ):
        config().build({"a": 4, "b": 4, "c": 4})
    with pytest.raises(ConfigError, match=r'the width of "b" must be a multiple of its heads \(2\), got 5'):
        config().build({"a": 4, "b": 5})
    given = tokens()
    given["sound"] = Tokens(torch.zeros(2, 5, 3), *given["sound"][1:])
    with pytest.raises(ShapeError, match=r'tokens of "sound" must be as wide as its vector \(6\), got 3; choose'):
        built()(given, here(given))
