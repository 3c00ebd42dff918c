"""The average against the same rule in plain floats."""

from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule

from polymodal.train.ema import Ema


class One(LightningModule):
    """One trained weight, one frozen weight, one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.0], dtype=torch.float64))
        self.locked = torch.nn.Parameter(torch.tensor([7.0]), requires_grad=False)
        self.register_buffer("running", torch.tensor([1.0]))


TRAINER: Any = object()  # the callback asks nothing of it


def follow(ema: Ema, module: One, values: list[float]) -> None:
    for value in values:
        module.weight.data.fill_(value)
        ema.on_train_batch_end(TRAINER, module)


def test_it_is_the_rule() -> None:
    module, ema = One(), Ema(0.3)
    ema.on_train_start(TRAINER, module)
    values = [1.0, 4.0, -2.0, 8.0, 3.0]
    follow(ema, module, values)
    average = 0.0
    for step, value in enumerate(values):
        keep = min(0.3, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * value
    assert ema.average["weight"].item() == pytest.approx(average, rel=1e-12)
    assert list(ema.average) == ["weight"]


def test_swapping_in_and_out_gives_the_weights_back_bit_for_bit() -> None:
    module, ema = One(), Ema(0.9)
    ema.on_train_start(TRAINER, module)
    follow(ema, module, [1 / 3])
    ema.on_validation_start(TRAINER, module)
    assert module.weight.item() == ema.average["weight"].item() == pytest.approx(0.9 / 3)
    ema.on_validation_end(TRAINER, module)
    assert module.weight.item() == 1 / 3


def test_it_goes_on_where_it_stopped() -> None:
    values = [1.0, 4.0, -2.0, 8.0]
    module, whole = One(), Ema(0.9)
    whole.on_train_start(TRAINER, module)
    follow(whole, module, values)

    module, first, second = One(), Ema(0.9), Ema(0.9)
    first.on_train_start(TRAINER, module)
    follow(first, module, values[:2])
    second.load_state_dict(first.state_dict())
    second.on_train_start(TRAINER, module)
    follow(second, module, values[2:])
    assert second.average["weight"].item() == whole.average["weight"].item()
    assert first.average["weight"].item() != second.average["weight"].item()  # it has its own memory
