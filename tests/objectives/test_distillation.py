"""The losses of distillation against their formulas in plain floats, and what must always hold."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from polymodal.errors import ShapeError
from polymodal.features import Task
from polymodal.objectives import distillation
from polymodal.objectives.distillation import affinity, embedding, hidden_states, layer_map, soft_labels

Rows = list[list[float]]


def numbers(*shape: int, seed: int = 3) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shares(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(one / temperature) for one in row]
    return [power / sum(powers) for power in powers]


def nats(wanted: list[float], said: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(wanted, said, strict=True) if p > 0)


def yes(logit: float, temperature: float) -> list[float]:
    share = 1 / (1 + math.exp(-logit / temperature))
    return [share, 1 - share]


def test_classes_have_the_divergence_of_softened_shares_times_the_temperature_squared() -> None:
    student, teacher = numbers(3, 4), numbers(3, 4, seed=4)
    pairs = zip(student.tolist(), teacher.tolist(), strict=True)
    wanted = sum(2.5**2 * nats(shares(t, 2.5), shares(s, 2.5)) for s, t in pairs) / 3
    for task in ("multiclass", "tokens"):
        assert soft_labels(task, student, teacher, 2.5).item() == pytest.approx(wanted)


@pytest.mark.parametrize(("task", "cells"), [("multilabel", 12), ("soft", 3), ("ordinal", 3)])
def test_labels_thresholds_and_answers_are_each_yes_or_no(task: Task, cells: int) -> None:
    student, teacher = numbers(3, 4), numbers(3, 4, seed=4)
    pairs = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    wanted = sum(9 * nats(yes(t, 3), yes(s, 3)) for s, t in pairs) / cells
    assert soft_labels(task, student, teacher, 3.0).item() == pytest.approx(wanted)


def test_one_logit_is_that_of_yes() -> None:
    student, teacher = torch.tensor([[0.5]]), torch.tensor([[-2.0]])
    assert soft_labels("binary", student, teacher, 1.0).item() == pytest.approx(nats(yes(-2, 1), yes(0.5, 1)))


def test_values_have_the_squared_difference_whatever_the_temperature() -> None:
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [5.0]])
    assert soft_labels("regression", student, teacher, 7.0).item() == pytest.approx((1 + 9) / 2)


def test_the_gradient_at_a_high_temperature_is_the_difference_of_the_logits() -> None:
    """Hinton et al., equation 4: (s - t) / C for logits of mean zero; without T² it would vanish."""
    student = (numbers(1, 4) - numbers(1, 4).mean()).requires_grad_()
    teacher = numbers(1, 4, seed=4)
    teacher = teacher - teacher.mean()
    soft_labels("multiclass", student, teacher, 1e4).backward()
    assert student.grad is not None
    assert torch.allclose(student.grad, (student.detach() - teacher) / 4, atol=1e-3)


def test_logits_beyond_every_exponential_stay_numbers() -> None:
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    for task in ("multiclass", "multilabel"):
        loss = soft_labels(task, student, -student.detach(), 1.0)
        loss.backward()
        assert torch.isfinite(loss)
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()


@given(st.lists(st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=3), min_size=1, max_size=4))
def test_a_student_that_says_the_same_has_no_loss_and_any_other_has_some(rows: Rows) -> None:
    said = torch.tensor(rows, dtype=torch.float64)
    for task in ("multiclass", "multilabel", "soft", "ordinal", "regression"):
        assert soft_labels(task, said, said, 2.0).item() == pytest.approx(0, abs=1e-9)
        assert soft_labels(task, said.flip(0), said, 2.0).item() >= -1e-9


def test_hidden_states_of_padding_do_not_count() -> None:
    student, teacher = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    assert hidden_states(student, teacher, mask).item() == pytest.approx((1 + 4 + 9 + 0) / 4)


def test_attention_is_the_mean_over_real_tokens_and_heads() -> None:
    student = numbers(1, 2, 3, 3).softmax(-1)
    teacher = numbers(1, 2, 3, 3, seed=4).softmax(-1)
    mask = torch.tensor([[True, True, False]])
    wanted = [
        nats(teacher[0, head, token].tolist(), student[0, head, token].tolist())
        for head in range(2)
        for token in range(2)
    ]
    assert distillation.attention(student, teacher, mask).item() == pytest.approx(sum(wanted) / 4)


def test_other_numbers_of_heads_are_compared_by_their_means() -> None:
    student, teacher = numbers(1, 1, 1, 3).softmax(-1), numbers(1, 2, 1, 3, seed=4).softmax(-1)
    mean = [(a + b) / 2 for a, b in zip(teacher[0, 0, 0].tolist(), teacher[0, 1, 0].tolist(), strict=True)]
    found = distillation.attention(student, teacher, torch.ones(1, 1, dtype=torch.bool))
    assert found.item() == pytest.approx(nats(mean, student[0, 0, 0].tolist()))


def test_attention_that_is_masked_away_has_a_finite_loss_and_gradient() -> None:
    student = torch.tensor([[[[0.3, -torch.inf]]]], requires_grad=True)
    teacher = torch.tensor([[[[0.25, 0.75]]]])
    loss = distillation.attention(student.softmax(-1), teacher, torch.ones(1, 1, dtype=torch.bool))
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_affinity_is_the_mean_of_both_directions() -> None:
    image, text = normalize(numbers(3, 5), dim=-1), normalize(numbers(3, 5, seed=4), dim=-1)
    other = normalize(numbers(3, 2, seed=5), dim=-1), normalize(numbers(3, 2, seed=6), dim=-1)

    def logits(one: Tensor, two: Tensor, scale: float) -> Rows:
        return [[scale * sum(x * y for x, y in zip(a, b, strict=True)) for b in two.tolist()] for a in one.tolist()]

    asked, wanted = logits(image, text, 5.0), logits(*other, 20.0)
    turned = [list(map(list, zip(*rows, strict=True))) for rows in (asked, wanted)]
    one_way = sum(nats(shares(t), shares(s)) for s, t in zip(asked, wanted, strict=True)) / 3
    other_way = sum(nats(shares(t), shares(s)) for s, t in zip(*turned, strict=True)) / 3
    found = affinity((image, text), other, torch.tensor(5.0), torch.tensor(20.0))
    assert found.item() == pytest.approx((one_way + other_way) / 2)


def test_embedding_is_half_the_squared_distance_of_directions() -> None:
    student, teacher = numbers(4, 3), 7 * numbers(4, 3, seed=4)
    apart = normalize(student, dim=-1) - normalize(teacher, dim=-1)
    assert embedding(student, teacher).item() == pytest.approx(apart.square().sum(1).mean().item() / 2)


def test_layers_are_mapped_evenly_and_the_last_to_the_last() -> None:
    assert layer_map(4, 12) == [2, 5, 8, 11]
    assert layer_map(3, 3) == [0, 1, 2]
    assert layer_map(5, 12)[-1] == 11
    assert layer_map(4, 2) == [0, 0, 1, 1]  # a student may be deeper


def test_shapes_that_differ_are_told() -> None:
    with pytest.raises(ShapeError, match=r"soft_labels: .* must have the same shape.*got \(2, 3\) and \(2, 4\)"):
        soft_labels("multiclass", torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ShapeError, match=r"affinity: .*\(2, 2\) and \(3, 3\)"):
        affinity(
            (torch.ones(2, 4), torch.ones(2, 4)), (torch.ones(3, 4), torch.ones(3, 4)), torch.ones(()), torch.ones(())
        )
    with pytest.raises(ShapeError, match=r"hidden_states"):
        hidden_states(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"at least one row"):
        soft_labels("multiclass", torch.zeros(0, 3), torch.zeros(0, 3))
