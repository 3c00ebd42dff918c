"""What pools one token need not compute the others' last MLP: `pooled` says what `forward` pools."""

from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal.types import Text
from tests import tiny


def agree(tower: Any, given: Tensor | Text) -> None:
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.normal_(std=0.3)  # biases and norms too, so that each of them counts
        tower.eval()
        torch.testing.assert_close(tower.pooled(given), tower(given).pooled, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"pool": "tanh"}, {"pool": "mean"}, {"pool": "map"}, {"layers": 1}])
def test_vit(changes: dict[str, Any]) -> None:
    agree(tiny.vit_config(**changes).build(), tiny.preprocess().image.normalize(tiny.pixels(3)))


@pytest.mark.parametrize("changes", [{}, {"causal": False}, {"pool": "eos"}, {"pool": "mean"}, {"head": True}])
@pytest.mark.parametrize("end", [None, 3])
def test_text_transformer(changes: dict[str, Any], end: int | None) -> None:
    agree(tiny.text_config(eos_token_id=end, **changes).build(), tiny.text(8))


@pytest.mark.parametrize("changes", [{}, {"pool": "pooler"}, {"pool": "mean"}, {"layers": 0}])
def test_bert(changes: dict[str, Any]) -> None:
    agree(tiny.bert_config(**changes).build(), tiny.text(8))


def test_the_last_mlp_sees_one_token_of_each_row() -> None:
    tower = tiny.text_config().build().eval()
    seen: list[tuple[int, ...]] = []
    for block in tower.blocks:
        block.get_submodule("mlp").register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape)))
    text = tiny.text(4)
    tower.pooled(text)
    assert seen == [(*text.ids.shape, 16), (4, 16)]
