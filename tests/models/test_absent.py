import torch
from torch import Tensor

from polymodal.encoders import RecordConfig, VitConfig
from polymodal.fusion.early import EarlyConfig
from polymodal.models.heads import HeadsConfig, LinearHead
from polymodal.models.multimodal import Multimodal, MultimodalConfig
from polymodal.types import Input, Record

ROWS = 6


def model() -> Multimodal:
    torch.manual_seed(0)
    return MultimodalConfig(
        encoders={
            "image": VitConfig(image_size=8, patch_size=4, width=8, layers=1, heads=2),
            "record": RecordConfig(numbers=3, width=8, layers=1, heads=2, dropout=0.0),
        },
        fusion=EarlyConfig(width=8, layers=1, heads=2, pool="mean"),
        heads=HeadsConfig(targets={"price": LinearHead(outputs=1)}),
    ).build()


def inputs() -> dict[str, Input]:
    record = Record(torch.randn(ROWS, 3), torch.zeros(ROWS, 3, dtype=torch.bool), torch.zeros(ROWS, 0).long())
    return {"image": torch.full((ROWS, 3, 8, 8), torch.nan), "record": record}


def presence(image: list[bool]) -> dict[str, Tensor]:
    return {"image": torch.tensor(image), "record": torch.ones(ROWS, dtype=torch.bool)}


def test_an_encoder_whose_input_no_row_has_sees_two_rows_and_learns_nothing() -> None:
    built, seen = model(), []
    built.encoders["image"].register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    out = built(inputs(), presence([False] * ROWS))
    out.predictions["price"].sum().backward()
    assert seen == [2]
    assert out.tokens["image"].sequence.shape[0] == ROWS
    assert all(weight.grad is None for weight in built.encoders["image"].parameters())
    token = built.missing.learned["image"]
    assert token.grad is not None
    assert token.grad.abs().sum() > 0


def test_a_row_is_told_the_same_whether_others_have_the_input_or_not() -> None:
    built, given = model().eval(), inputs()
    alone = built(given, presence([False] * ROWS)).predictions["price"]
    pictures = given["image"]
    assert isinstance(pictures, Tensor)
    pictures[0] = 0.5
    among = built(given, presence([True] + [False] * (ROWS - 1))).predictions["price"]
    assert not torch.allclose(alone[0], among[0], atol=1e-4)
    torch.testing.assert_close(alone[1:], among[1:])
    # Nor does it matter whether the input is blank or not given.
    del given["image"]
    torch.testing.assert_close(built(given).predictions["price"], alone)


def test_one_row_is_enough() -> None:
    one = Record(torch.randn(1, 3), torch.zeros(1, 3, dtype=torch.bool), torch.zeros(1, 0).long())
    out = model().eval()({"image": torch.zeros(1, 3, 8, 8), "record": one}, {"image": torch.tensor([False])})
    assert out.predictions["price"].isfinite().all()
