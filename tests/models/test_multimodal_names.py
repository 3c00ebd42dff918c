"""Inputs may have any name that a column may have."""

import pytest
import torch

from polymodal.models.multimodal import Multimodal, MultimodalConfig
from polymodal.types import Record

NAMES = ["type", "price.usd", "keys", "价格", "100%", ""]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_column_is_a_name_of_an_input(name: str) -> None:
    record = {"kind": "record", "numbers": 2, "width": 8, "layers": 1, "heads": 2, "dropout": 0.0}
    config = MultimodalConfig.parse(
        {
            "encoders": {name: record, "other": record},
            "fusion": {"kind": "late", "weights": "mean", "width": 4},
            "heads": {"targets": {name: {"kind": "linear", "outputs": 3}}},
        },
        "model",
    )
    model = Multimodal(config).eval()
    given = Record(torch.ones(5, 2), torch.zeros(5, 2, dtype=torch.bool), torch.zeros(5, 0, dtype=torch.int64))
    out = model({name: given, "other": given})
    assert out.predictions[name].shape == (5, 3)
    assert list(model.encoders) == [name, "other"]
    assert name in model.encoders
    assert len(model.state_dict()) == len(set(model.state_dict()))
    again = Multimodal(config).eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again({name: given, "other": given}).predictions, out.predictions)
