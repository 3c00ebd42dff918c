from typing import Any

import pytest
import torch
from torch import nn

from polymodal.errors import ConfigError
from polymodal.fusion.late import LateConfig
from tests.fusion.small import built, here, join, tokens

FIXED = {"image": 1.0, "text": 3.0, "record": 0.0}


def late(weights: str, **changes: Any) -> LateConfig:
    return LateConfig.parse({"weights": weights, "width": 5} | changes, "late")


AVERAGES = [late("mean"), late("fixed", fixed=FIXED), late("learned"), late("gated")]
average = pytest.mark.parametrize("config", AVERAGES, ids=lambda config: config.weights)


@average
@torch.no_grad()
def test_one_input_present_is_its_projection(config: LateConfig) -> None:
    parts, given = built(config), tokens(config)
    for number, name in enumerate(given):
        absent = {other: [0, 1, 2] for other in given if other != name}
        alone = join(parts, given, here(given, absent)).pooled
        torch.testing.assert_close(alone, parts[0].project.vectors(given)[:, number])


@average
@torch.no_grad()
def test_a_linear_head_gives_the_weighted_average_of_the_logits_of_each_input(config: LateConfig) -> None:
    parts, given = built(config), tokens(config)
    head = nn.Linear(5, 3)
    fused = join(parts, given, here(given, {"text": [1]}), maps=True)
    each = head(parts[0].project.vectors(given))
    torch.testing.assert_close(head(fused.pooled), (fused.maps["weights"][:, :, None] * each).sum(1))


@torch.no_grad()
def test_weights_in_plain_numbers() -> None:
    given = tokens(late("mean"))
    there = here(given, {"image": [0], "text": [0, 1], "record": [2]})  # rows have: record; image, record; image, text
    (learned, missing), fixed = built(late("learned")), built(late("fixed", fixed=FIXED))
    learned.theta.copy_(torch.tensor([2.0, 1.0, 0.5]).log())
    wanted = {
        "mean": (built(late("mean")), [[0, 0, 1], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
        "learned": ((learned, missing), [[0, 0, 1], [0.8, 0, 0.2], [2 / 3, 1 / 3, 0]]),
        "fixed": (fixed, [[0, 0, 1], [1, 0, 0], [0.25, 0.75, 0]]),  # row 0 has only an input of weight 0
    }
    for parts, weights in wanted.values():
        torch.testing.assert_close(join(parts, given, there, maps=True).maps["weights"], torch.tensor(weights))


@torch.no_grad()
def test_gates_are_the_rows_own() -> None:
    parts, given = built(late("gated")), tokens(late("gated"))
    weights = join(parts, given, maps=True).maps["weights"]
    assert (weights[0] - weights[1]).abs().max() > 1e-3
    torch.testing.assert_close(weights.sum(1), torch.ones(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "fixed"}, 'weights "fixed" and numbers in `fixed` go together'),
        ({"weights": "mean", "fixed": FIXED}, 'weights "fixed" and numbers in `fixed` go together'),
        ({"weights": "fixed", "fixed": {"image": -1, "text": 2}}, "at least 0 and one of them above 0"),
        ({"weights": "fixed", "fixed": {"image": 0}}, "at least 0 and one of them above 0"),
        ({"weights": "fixed", "fixed": {"image": float("nan")}}, "finite"),
    ],
)
def test_weights_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LateConfig.parse(changes, "late")


def test_fixed_weights_name_the_inputs() -> None:
    with pytest.raises(ConfigError, match='fusion "late": fixed must name image, sound, got image, text, record'):
        late("fixed", fixed=FIXED).build({"image": 3, "sound": 4})
