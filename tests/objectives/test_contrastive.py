"""The contrastive losses against their formulas in plain floats, published values, and what must always hold."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import normalize

from polymodal.config import Config
from polymodal.errors import ConfigError, ShapeError
from polymodal.objectives import (
    InfoNceConfig,
    ObjectiveConfig,
    Pairs,
    SiglipConfig,
    Step,
    hard_negative,
    info_nce,
    siglip,
)
from polymodal.types import ImageTextBatch, Text

SCALE = torch.tensor(14.0, dtype=torch.float64)
BIAS = torch.tensor(-3.0, dtype=torch.float64)
Rows = list[list[float]]


def pairs(count: int, width: int = 5, seed: int = 7) -> tuple[Tensor, Tensor]:
    draw = torch.randn(2, count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    image, text = normalize(draw, dim=-1)
    return image, text


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def info_nce_in_floats(image: Rows, text: Rows, scale: float, same: list[list[bool]]) -> float:
    def one_way(asks: Rows, answers: Rows, left_out: list[list[bool]]) -> float:
        nats = 0.0
        for i, ask in enumerate(asks):
            rivals = [j for j in range(len(answers)) if j == i or not left_out[i][j]]
            nats += math.log(sum(math.exp(scale * cosine(ask, answers[j])) for j in rivals))
            nats -= scale * cosine(ask, answers[i])
        return nats / len(asks)

    turned = [list(column) for column in zip(*same, strict=True)]
    return (one_way(image, text, same) + one_way(text, image, turned)) / 2


def siglip_in_floats(image: Rows, text: Rows, scale: float, bias: float, same: list[list[bool]]) -> float:
    nats = 0.0
    for i, picture in enumerate(image):
        for j, words in enumerate(text):
            if i != j and same[i][j]:
                continue
            sign = 1 if i == j else -1
            nats += math.log(1 + math.exp(-sign * (scale * cosine(picture, words) + bias)))
    return nats / len(image)


def hard_negative_in_floats(image: Rows, text: Rows, margin: float, same: list[list[bool]]) -> float:
    total = 0.0
    for i in range(len(image)):
        own = cosine(image[i], text[i])
        texts = [cosine(image[i], text[j]) for j in range(len(text)) if j != i and not same[i][j]]
        pictures = [cosine(image[j], text[i]) for j in range(len(image)) if j != i and not same[j][i]]
        total += max([0.0, *(margin + other - own for other in texts)])
        total += max([0.0, *(margin + other - own for other in pictures)])
    return total / len(image)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    count = draw(st.integers(1, 6))
    image, text = pairs(count, seed=draw(st.integers(0, 1000)))
    flags = draw(st.lists(st.booleans(), min_size=count * count, max_size=count * count))
    return image, text, torch.tensor(flags).view(count, count)


@settings(deadline=None, max_examples=40)
@given(cases())
def test_all_three_agree_with_their_formulas(case: tuple[Tensor, Tensor, Tensor]) -> None:
    image, text, same = case
    rows = image.tolist(), text.tolist()
    assert info_nce(image, text, SCALE, same).item() == pytest.approx(
        info_nce_in_floats(*rows, SCALE.item(), same.tolist()), rel=1e-9, abs=1e-12
    )
    assert siglip(image, text, SCALE, BIAS, same).item() == pytest.approx(
        siglip_in_floats(*rows, SCALE.item(), BIAS.item(), same.tolist()), rel=1e-9, abs=1e-12
    )
    assert hard_negative(image, text, 0.3, same).item() == pytest.approx(
        hard_negative_in_floats(*rows, 0.3, same.tolist()), rel=1e-9, abs=1e-12
    )


def test_no_mask_and_a_mask_of_the_diagonal_are_the_same() -> None:
    image, text = pairs(5)
    diagonal = torch.eye(5, dtype=torch.bool)
    assert info_nce(image, text, SCALE) == info_nce(image, text, SCALE, diagonal)
    assert siglip(image, text, SCALE, BIAS) == siglip(image, text, SCALE, BIAS, diagonal)
    assert hard_negative(image, text, 0.2) == hard_negative(image, text, 0.2, diagonal)


def test_known_values_of_a_small_batch() -> None:
    image = normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=torch.float64), dim=-1)
    text = normalize(torch.tensor([[2.0, 1, 0], [0, 1, 1], [1, 0, 1]], dtype=torch.float64), dim=-1)
    assert info_nce(image, text, torch.tensor(1 / 0.07)).item() == pytest.approx(0.522884, abs=1e-6)
    assert siglip(image, text, torch.tensor(10.0), torch.tensor(-10.0)).item() == pytest.approx(2.207488, abs=1e-6)


def test_info_nce_is_at_chance_when_every_text_is_alike() -> None:
    _, text = pairs(6)
    alike = text[:1].expand_as(text)
    assert info_nce(alike, alike, SCALE).item() == pytest.approx(math.log(6))


def test_hard_negative_is_nothing_once_every_pair_is_clear_of_the_margin() -> None:
    apart = torch.eye(4, dtype=torch.float64)
    assert hard_negative(apart, apart, 0.9).item() == 0
    assert hard_negative(apart, apart, 1.5).item() == pytest.approx(2 * 0.5)


def test_they_rise_when_two_texts_trade_places() -> None:
    image, _ = pairs(6)
    traded = image[[1, 0, 2, 3, 4, 5]]
    assert info_nce(image, traded, SCALE) > info_nce(image, image, SCALE)
    assert siglip(image, traded, SCALE, BIAS) > siglip(image, image, SCALE, BIAS)
    assert hard_negative(image, traded, 0.2) > hard_negative(image, image, 0.2)


def test_a_picture_does_not_feel_a_text_that_belongs_to_it_elsewhere() -> None:
    image, text = pairs(4)
    image.requires_grad_()
    same = torch.eye(4, dtype=torch.bool)
    same[0, 3] = True  # picture 0 and text 3 belong together
    moved = text.clone()
    moved[3] = -moved[3]
    losses: list[Callable[[Tensor], Tensor]] = [
        lambda words: info_nce(image, words, SCALE, same),
        lambda words: siglip(image, words, SCALE, BIAS, same),
        lambda words: hard_negative(image, words, 0.9, same),
    ]
    for loss in losses:
        (here,) = torch.autograd.grad(loss(text), image)
        (there,) = torch.autograd.grad(loss(moved), image)
        assert here.isfinite().all()
        assert torch.equal(here[0], there[0])
        assert not torch.equal(here[3], there[3])


@pytest.mark.parametrize("loss", ["info_nce", "siglip", "hard_negative"])
def test_their_error_names_both_shapes(loss: str) -> None:
    image, text = pairs(3)
    calls: dict[str, Callable[[], Tensor]] = {
        "info_nce": lambda: info_nce(image, text[:2], SCALE),
        "siglip": lambda: siglip(image, text[:2], SCALE, BIAS),
        "hard_negative": lambda: hard_negative(image, text[:2], 0.2),
    }
    with pytest.raises(ShapeError, match=rf"{loss}: image and text must have the same shape.*\(3, 5\) and \(2, 5\)"):
        calls[loss]()


def test_cosines_are_not_rounded_under_autocast() -> None:
    image, text = (half.float() for half in pairs(16, width=64))
    exact = info_nce(image, text, torch.tensor(100.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert info_nce(image, text, torch.tensor(100.0)).item() == exact.item()


def step_of(image: Tensor, text: Tensor, bias: Tensor | None = None) -> Step:
    batch = ImageTextBatch(torch.zeros(1), Text(torch.zeros(1), torch.zeros(1)), torch.zeros(1))
    return Step(nn.Identity(), batch, lambda: Pairs(image, text, SCALE, bias))  # type: ignore[arg-type]


class Listed(Config):
    objectives: list[ObjectiveConfig]


@pytest.mark.parametrize("kind", ["info_nce", "siglip", "hard_negative"])
def test_an_objective_is_chosen_by_kind_and_its_log_holds_no_graph(kind: str) -> None:
    (config,) = Listed.parse({"objectives": [{"kind": kind, "weight": 0.5}]}, "test").objectives
    objective = config.build()
    image, text = pairs(4)
    image.requires_grad_()
    result = objective.step(step_of(image, text, BIAS))
    assert objective.weight == 0.5
    assert result.loss.requires_grad
    assert result.log[kind] == result.loss
    assert not any(value.requires_grad for value in result.log.values())


def test_batch_accuracy_counts_what_belongs_together_as_no_miss() -> None:
    image = torch.eye(3, dtype=torch.float64)
    text = image[[0, 0, 2]]  # text 1 is nearest to picture 0
    step = step_of(image, text)
    assert InfoNceConfig().build().step(step).log["batch_accuracy"].item() == pytest.approx(2 / 3)


def test_siglip_says_what_is_missing() -> None:
    image, text = pairs(3)
    with pytest.raises(ConfigError, match=r"siglip: the model has no bias.*model\.bias=-10"):
        SiglipConfig().build().step(step_of(image, text))
