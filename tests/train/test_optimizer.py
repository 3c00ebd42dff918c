"""Freezing, groups, learning rates and the schedule, on a model small enough to list."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from polymodal.errors import ConfigError
from polymodal.train.optimizer import adamw, freeze, matching, param_groups, rest_frozen, schedule


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.positions = nn.Parameter(torch.zeros(3, 4))
        self.words = nn.Embedding(5, 4)
        self.position_embedding = nn.Embedding(3, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(12))

    def layer_groups(self) -> list[list[nn.Parameter]]:
        first = [self.class_token, self.positions, *self.words.parameters(), *self.position_embedding.parameters()]
        return [first, *(list(block.parameters()) for block in self.blocks)]


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = Tower()
        self.image_projection = nn.Linear(4, 2, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(1.0))


def settings(model: Model, **options: Any) -> dict[str, tuple[float, float]]:
    """Name -> (learning rate, decay), read back from the optimizer itself."""
    optimizer = adamw(param_groups(model, **({"lr": 1.0, "weight_decay": 0.2} | options)), (0.9, 0.98), 1e-6)
    by_weight = {w: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for w in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(by_weight)
    return {name: by_weight[weight] for name, weight in model.named_parameters() if weight in by_weight}


def test_only_matrices_decay() -> None:
    found = settings(Model())
    decayed = {name for name, (_, decay) in found.items() if decay}
    blocks = {f"image_encoder.blocks.{n}.0.weight" for n in range(12)}
    assert decayed == blocks | {"image_encoder.words.weight", "image_projection.weight"}
    assert all(decay in (0, 0.2) for _, decay in found.values())
    assert found.keys() == dict(Model().named_parameters()).keys()


def test_layers_learn_slower_the_further_they_are_from_the_top() -> None:
    found = settings(Model(), layer_decay=0.5)
    assert found["image_encoder.blocks.11.0.weight"][0] == 1
    assert found["image_encoder.blocks.9.1.bias"][0] == 0.25
    assert found["image_encoder.words.weight"][0] == 0.5**12
    assert found["image_projection.weight"][0] == found["log_scale"][0] == 1


def test_of_several_factors_the_longest_pattern_counts() -> None:
    found = settings(
        Model(), lr_scale={"image_encoder.blocks.2-3": 10, "image_encoder": 0.1, "log_scale": 5}, layer_decay=0.5
    )
    assert found["image_encoder.blocks.3.0.weight"][0] == 10 * 0.5**8
    assert found["image_encoder.blocks.4.0.weight"][0] == pytest.approx(0.1 * 0.5**7)
    assert found["log_scale"][0] == 5
    assert found["image_projection.weight"][0] == 1


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("image_encoder", 4 + 12 * 4),
        ("image_encoder.blocks.1", 4),  # not 10 and 11
        ("image_encoder.blocks.2-10", 9 * 4),
        ("image_encoder.blocks.*.1", 12 * 2),
        ("*_projection", 1),
        ("log_scale", 1),
    ],
)
def test_a_pattern_is_the_beginning_of_a_path(pattern: str, count: int) -> None:
    assert len(matching(Model(), pattern, "trainer.freeze")) == count


def test_a_pattern_that_covers_nothing_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r'trainer\.freeze: "image_encodr" names no module.*mean "image_encoder"\?'):
        freeze(Model(), ["image_encodr"])
    with pytest.raises(ConfigError, match=r'trainer\.lr_scale: "zzz".*its parts: image_encoder, image_projection'):
        param_groups(Model(), lr=1, weight_decay=0, lr_scale={"zzz": 2})


def test_frozen_weights_and_statistics_are_the_same_bits_after_training() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)), nn.Linear(4, 4))
    freeze(model, ["0"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = adamw(param_groups(model, lr=0.1, weight_decay=0.5), (0.9, 0.98), 1e-6)
    for _ in range(3):
        model.train()
        rest_frozen(model)
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("0."))
    assert not torch.equal(after["1.weight"], before["1.weight"])
    assert model[1].training


def test_a_frozen_weight_is_in_no_group() -> None:
    model = Model()
    freeze(model, ["image_encoder.blocks.0-10"])
    assert "image_encoder.blocks.10.0.weight" not in settings(model)
    assert "image_encoder.blocks.11.0.weight" in settings(model)


def test_the_schedule_rises_in_a_line_and_falls_by_its_kind() -> None:
    cosine, linear, constant = (schedule(kind, 4, 12) for kind in ("cosine", "linear", "constant"))
    assert [cosine(step) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert cosine(8) == pytest.approx((1 + math.cos(math.pi * 4 / 8)) / 2)
    assert cosine(12) == pytest.approx(0)
    assert linear(10) == pytest.approx(0.25)
    assert constant(11) == 1
    assert schedule("cosine", 0, 10)(0) == 1
    assert schedule("cosine", 10, 10)(10) == 1  # nothing is left to fall in
