"""Temperatures of targets: what a doubled logit says, and where there is nothing to fit."""

import pytest
import torch
from torch import Tensor

from polymodal.features import Target
from polymodal.train.multimodal.calibrate import LEAST, temperature

CLASSES = ("a", "b", "c")


def drawn(count: int = 4000) -> tuple[Tensor, Tensor]:
    """Logits (count, 3), and classes that are as likely as these say."""
    draw = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(count, 3, generator=draw)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=draw)[:, 0]


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_a_temperature_undoes_a_factor(factor: float) -> None:
    logits, labels = drawn()
    known = torch.ones(len(labels), dtype=torch.bool)
    several = Target(columns=("x",), task="multiclass", classes=CLASSES)
    assert temperature(several, factor * logits, labels, known) == pytest.approx(factor, rel=0.06)
    tags = Target(columns=("x",), task="tokens", classes=CLASSES)
    shape = (-1, 8)
    given = factor * logits.view(*shape, 3), labels.view(shape), known.view(shape)
    assert temperature(tags, *given) == temperature(several, factor * logits, labels, known)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_temperature_of_decisions_of_two_classes(factor: float) -> None:
    draw = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(4000, 2, generator=draw)
    yes = (torch.rand(logits.shape, generator=draw) < logits.sigmoid()).float()
    known = torch.ones(4000, dtype=torch.bool)
    one = Target(columns=("x",), task="binary", classes=("no", "yes"))
    assert temperature(one, factor * logits[:, :1], yes[:, 0], known) == pytest.approx(factor, rel=0.08)
    both = Target(columns=("x",), task="multilabel", classes=("a", "b"))
    assert temperature(both, factor * logits, yes, torch.ones(4000, 2).bool()) == pytest.approx(factor, rel=0.08)
    ordered = Target(columns=("x",), task="ordinal", classes=CLASSES)
    state = 2 * torch.randn(4000, generator=draw)
    noise = torch.logit(torch.rand(4000, generator=draw))  # of the logistic distribution, which thresholds stand for
    thresholds = torch.tensor([-1.0, 1.0])
    level = ((state + noise)[:, None] > thresholds).sum(1)
    assert temperature(ordered, factor * (state[:, None] - thresholds), level, known) == pytest.approx(factor, rel=0.1)


def test_labels_that_are_not_known_have_no_say() -> None:
    logits, labels = drawn()
    target = Target(columns=("x",), task="multiclass", classes=CLASSES)
    known = torch.arange(len(labels)) < 2000
    alone = temperature(target, logits[:2000], labels[:2000], known[:2000])
    logits[2000:], labels[2000:] = 50.0, 0
    assert temperature(target, logits, labels, known) == alone


def test_it_stays_one_where_nothing_can_be_told() -> None:
    logits, labels = drawn()
    known = torch.ones(len(labels), dtype=torch.bool)
    target = Target(columns=("x",), task="multiclass", classes=CLASSES)
    assert temperature(target, logits, logits.argmax(1), known) == 1  # all right: without end the colder the better
    few = torch.arange(len(labels)) < LEAST - 1
    assert temperature(target, logits, labels, few) == 1
    number = Target(columns=("x",), task="regression")
    assert temperature(number, logits[:, :1], labels.float(), known) == 1
    soft = Target(columns=("x",), task="soft", classes=CLASSES)
    assert temperature(soft, logits, logits.sigmoid(), known[:, None].expand(-1, 3)) == 1
