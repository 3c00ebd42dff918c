from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from polymodal.compress.calibration import batches
from polymodal.compress.qat import Qat, RoundingLinear, apart
from polymodal.compress.quantize import Int8
from polymodal.compress.step import parse_steps
from polymodal.errors import ArtifactError, ConfigError, TrainError
from polymodal.layers.compressed import Int8Linear
from tests.compress import works


def test_it_says_what_integers_will_say_and_learns_as_if_nothing_were_rounded() -> None:
    torch.manual_seed(2)
    layer = nn.Linear(24, 12)
    x = torch.randn(2, 5, 24)
    rounding = RoundingLinear(layer)
    assert torch.allclose(rounding(x), Int8Linear.of(layer)(x), atol=1e-5)
    given = x.clone().requires_grad_(True)
    rounding(given).sum().backward()
    rounded = Int8Linear.of(layer).dequantized()
    assert given.grad is not None
    assert torch.allclose(given.grad, rounded.sum(0).expand_as(x), atol=1e-5)
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    assert layer.bias.grad.tolist() == [10.0] * 12


def test_it_learns_to_bear_integers(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    with torch.no_grad():  # a weight far from the others: the rounding of its row is rough
        for name, weight in work.model.named_parameters():
            if name.endswith(("fc1.weight", "fc2.weight")):
                weight[:, 0] *= 12
    after = works.done(Qat(epochs=40, lr=2e-3), work)
    plain = Int8().run(work)
    [batch] = batches(work, 6)
    with torch.no_grad():
        assert apart(work, after.model, batch) < 0.7 * apart(work, plain.model, batch)
    assert any(isinstance(module, Int8Linear) for module in after.model.modules())
    assert not any(isinstance(module, RoundingLinear) for module in after.model.modules())
    works.saved_and_read(tmp_path, after)
    assert "qat: what integers change" in after.notes[-1]


def test_rows_of_a_table_teach_it_too(tmp_path: Path) -> None:
    after = Qat(epochs=1).run(works.rows(tmp_path))
    works.saved_and_read(tmp_path, after)


def test_what_it_refuses(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    with pytest.raises(ArtifactError, match="is quantized already"):
        Qat().run(Int8().run(work))
    with pytest.raises(ConfigError, match='step "qat": the model has no linear layer that could learn'):
        Qat(keep=("*encoder", "*projection")).run(work)
    with torch.no_grad():
        next(work.model.get_submodule("text_encoder").parameters()).fill_(float("inf"))
    with pytest.raises(TrainError, match="qat: the loss is not finite at step 1 of 1; set a lower lr"):
        Qat().run(replace(work))
    with pytest.raises(ConfigError, match='"prune" cannot follow "qat"'):
        parse_steps("qat,prune:ffn=0.3")
