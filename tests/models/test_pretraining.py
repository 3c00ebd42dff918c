"""Heads for pre-training: shapes, ties, and what they refuse."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from polymodal.errors import ConfigError
from polymodal.models.multimodal import Multimodal, MultimodalConfig
from polymodal.models.pretraining import ContrastiveHead, MaskedTextHead, sin_cos_grid
from polymodal.types import Tokens
from tests import tiny

EARLY = {"kind": "early", "width": 24, "layers": 1, "heads": 2}


def model(**pretraining: dict[str, Any]) -> Multimodal:
    torch.manual_seed(0)
    encoders = {"image": tiny.vit_config().to_dict(), "text": tiny.bert_config().to_dict()}
    config = {"encoders": encoders, "fusion": EARLY, "pretraining": pretraining}
    return MultimodalConfig.parse(config, "model").build()


def masked_text(built: Multimodal) -> MaskedTextHead:
    head = built.pretraining["masked_text"]
    assert isinstance(head, MaskedTextHead)
    return head


def test_shapes_and_names_of_weights() -> None:
    built = model(
        masked_text={"kind": "masked_text"},
        masked_regions={"kind": "masked_regions", "input": "image", "outputs": {"classes": 7, "features": 5}},
        masked_image={"kind": "masked_image", "cell": 8},
        matching={"kind": "matching"},
        contrastive={"kind": "contrastive", "width": 12},
    )
    heads = built.pretraining
    states = torch.randn(5, 24)
    assert heads["masked_text"](states).shape == (5, tiny.VOCAB_SIZE)
    assert {name: one.shape[1] for name, one in heads["masked_regions"](states).items()} == {
        "classes": 7,
        "features": 5,
    }
    assert heads["masked_image"](states).shape == (5, 3 * 8 * 8)
    assert heads["matching"](states).shape == (5, 2)
    assert sorted(name.removeprefix("pretraining.") for name in built.state_dict() if "pretraining" in name) == [
        "contrastive.first.bias",
        "contrastive.first.weight",
        "contrastive.log_scale",
        "contrastive.second.bias",
        "contrastive.second.weight",
        "masked_image.bias",
        "masked_image.weight",
        "masked_regions.decoders.classes.bias",
        "masked_regions.decoders.classes.weight",
        "masked_regions.decoders.features.bias",
        "masked_regions.decoders.features.weight",
        "masked_regions.transform.dense.bias",
        "masked_regions.transform.dense.weight",
        "masked_regions.transform.norm.bias",
        "masked_regions.transform.norm.weight",
        "masked_text.bias",
        "masked_text.transform.dense.bias",
        "masked_text.transform.dense.weight",
        "masked_text.transform.norm.bias",
        "masked_text.transform.norm.weight",
        "matching.bias",
        "matching.weight",
    ]


def test_the_decoder_of_ids_is_the_embedding_table_itself() -> None:
    built = model(masked_text={"kind": "masked_text"})
    head = masked_text(built)
    table: Any = built.encoders["text"].embedding
    states = torch.randn(4, 24)
    before = head(states)
    with torch.no_grad():
        table.weight[9] += 1
    after = head(states)
    assert (after != before).any(0).nonzero().flatten().tolist() == [9]
    built.zero_grad()
    after.sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.any()
    by_hand = nn.functional.layer_norm(nn.functional.gelu(head.transform.dense(states)), (16,), eps=1e-12)
    torch.testing.assert_close(after, by_hand @ table.weight.T + head.bias)


def test_a_copy_of_a_model_is_tied_to_its_own_table() -> None:
    built = model(masked_text={"kind": "masked_text"})
    copied = deepcopy(built)
    states = torch.randn(4, 24)
    before = masked_text(copied)(states)
    with torch.no_grad():
        table: Any = built.encoders["text"].embedding
        table.weight.zero_()
    torch.testing.assert_close(masked_text(copied)(states), before)


def test_the_scale_has_a_ceiling_and_a_way_back() -> None:
    head = model(contrastive={"kind": "contrastive", "max_scale": 100.0}).pretraining["contrastive"]
    assert isinstance(head, ContrastiveHead)
    tokens = {
        "image": head_tokens(16),
        "text": head_tokens(16),
    }
    first, second, scale = head(tokens)
    assert scale.item() == pytest.approx(1 / 0.07)
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(second.norm(dim=-1), torch.ones(3))
    with torch.no_grad():
        head.log_scale.fill_(9.0)
    scale = head(tokens)[2]
    assert scale.item() == pytest.approx(100.0, rel=1e-5)
    scale.backward()
    assert head.log_scale.grad is not None
    assert head.log_scale.grad.item() > 0


def head_tokens(width: int) -> Any:
    sequence = torch.randn(3, 2, width)
    return Tokens(sequence, torch.ones(3, 2, dtype=torch.bool), sequence[:, 0])


def test_positions_of_a_grid_tell_all_cells_apart() -> None:
    grid = sin_cos_grid(3, 4, 8)
    assert grid.shape == (12, 8)
    assert torch.cdist(grid, grid).fill_diagonal_(1.0).min() > 0.1
    # Cell 7 is row 1, column 3: sin and cos of the column in front.
    assert grid[7, :4].tolist() == pytest.approx([0.14112, 0.0299955, -0.9899925, 0.99955], abs=1e-5)
    assert grid[7, 4:].tolist() == pytest.approx([0.841471, 0.0099998, 0.540302, 0.99995], abs=1e-5)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"kind": "masked_text", "input": "image"}, 'encoder "image" has no embedding table of ids'),
        ({"kind": "masked_text", "input": "txt"}, 'reads input "txt"; the model has image, text; did you mean "text"'),
        ({"kind": "contrastive", "first": "sound"}, 'pretraining head contrastive reads input "sound"'),
    ],
)
def test_what_cannot_be_built_says_why(head: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        model(head=head)
    assert message in str(error.value)
