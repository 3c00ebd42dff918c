"""The targets' losses in plain floats; unknown labels have no effect; several targets in one step."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.features import Target
from polymodal.objectives.balance import GradNorm
from polymodal.objectives.supervised import Supervised, shared_weights, target_loss
from tests.objectives import joint_toy

SUPERVISED = {"kind": "supervised"}
CLASSES = ("a", "b", "c")
NAN = math.nan


def target(task: str, classes: tuple[str, ...] = CLASSES) -> Target:
    return Target.parse({"columns": ("y",), "task": task, "classes": classes}, "target")


def binary_entropy(logit: float, truth: float) -> float:
    return max(logit, 0) - logit * truth + math.log1p(math.exp(-abs(logit)))


def binary_entropies(logits: list[float], truth: Sequence[float]) -> float:
    return sum(binary_entropy(x, y) for x, y in zip(logits, truth, strict=True))


def entropy(logits: list[float], truth: int) -> float:
    return math.log(sum(map(math.exp, logits))) - logits[truth]


LOGITS = [[2.0, -1.0, 0.5], [0.25, 3.0, -2.0], [0.0, 1.0, 1.5]]
SCORES = [[0.0, 0.3, 1.0], [0.6, 0.0, 0.0], [0.9, 0.0, 1.0]]
CASES: dict[str, tuple[Target, Any, Any, float]] = {  # by task: predictions, labels, the mean loss of rows 0 and 2
    "binary": (
        target("binary", ("no", "yes")),
        [[2.0], [9.0], [-0.5]],
        [1.0, 0.0, 1.0],
        (binary_entropy(2, 1) + binary_entropy(-0.5, 1)) / 2,
    ),
    "multiclass": (target("multiclass"), LOGITS, [1, 0, 2], (entropy(LOGITS[0], 1) + entropy(LOGITS[2], 2)) / 2),
    "multilabel": (
        target("multilabel"),
        LOGITS,
        [[1.0, 0, 0], [0, 0, 0], [0, 1, 1]],
        (binary_entropies(LOGITS[0], [1, 0, 0]) + binary_entropies(LOGITS[2], [0, 1, 1])) / 6,
    ),
    "regression": (target("regression", ()), [[1.5], [7.0], [-1.0]], [1.0, 0.0, 2.0], (0.25 + 9) / 2),
    "ordinal": (  # four classes, three thresholds
        target("ordinal", ("1", "2", "3", "4")),
        LOGITS,
        [0, 0, 2],
        (binary_entropies(LOGITS[0], [0, 0, 0]) + binary_entropies(LOGITS[2], [1, 1, 0])) / 2,
    ),
    "soft": (
        target("soft"),
        LOGITS,
        SCORES,
        (binary_entropies(LOGITS[0], SCORES[0]) + binary_entropies(LOGITS[2], SCORES[2])) / 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", CASES)
def test_losses_in_plain_floats_over_known_labels(task: str) -> None:
    kind, predictions, labels, expected = CASES[task]
    labels = torch.tensor(labels)
    if labels.is_floating_point():
        labels[1] = NAN  # what stands where nothing is known has no effect
    else:
        labels[1] = -7
    prediction = torch.tensor(predictions, requires_grad=True)
    loss = target_loss(kind, prediction, labels, torch.tensor([True, False, True]))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()
    assert not prediction.grad[1].any()


@pytest.mark.parametrize("task", CASES)
def test_no_known_label_is_no_loss(task: str) -> None:
    kind, predictions, labels, _ = CASES[task]
    prediction = torch.tensor(predictions, requires_grad=True)
    loss = target_loss(kind, prediction, torch.tensor(labels), torch.zeros(3, dtype=torch.bool))
    assert loss.item() == 0
    loss.backward()


def test_labels_are_known_one_by_one() -> None:
    known = torch.tensor([[True, False, False], [False, False, False], [False, True, True]])
    labels = torch.tensor([[1.0, NAN, NAN], [NAN, NAN, NAN], [NAN, 1, 0]])
    loss = target_loss(target("multilabel"), torch.tensor(LOGITS), labels, known)
    expected = (binary_entropy(2.0, 1) + binary_entropy(1.0, 1) + binary_entropy(1.5, 0)) / 3
    assert loss.item() == pytest.approx(expected)


def test_tokens_are_asked_where_they_are_known() -> None:
    prediction = torch.tensor([LOGITS, LOGITS])
    known = torch.tensor([[False, True, False], [True, False, True]])
    labels = torch.tensor([[-7, 0, 9], [1, -7, 2]])
    loss = target_loss(target("tokens"), prediction, labels, known)
    expected = (entropy(LOGITS[1], 0) + entropy(LOGITS[0], 1) + entropy(LOGITS[2], 2)) / 3
    assert loss.item() == pytest.approx(expected)


def test_hubers_loss_grows_linearly() -> None:
    labels, known = torch.tensor([0.0, 0.0]), torch.ones(2, dtype=torch.bool)
    loss = target_loss(target("regression", ()), torch.tensor([[0.5], [4.0]]), labels, known, huber=1.0)
    assert loss.item() == pytest.approx((0.5 * 0.25 + (4 - 0.5)) / 2)


def test_class_weights() -> None:
    known = torch.ones(3, dtype=torch.bool)
    weights = torch.tensor([1.0, 2.0, 4.0])

    def loss(task: str, prediction: Any, labels: Any, weights: Tensor, classes: tuple[str, ...] = CLASSES) -> float:
        return target_loss(target(task, classes), torch.tensor(prediction), torch.tensor(labels), known, weights).item()

    expected = (2 * entropy(LOGITS[0], 1) + entropy(LOGITS[1], 0) + 4 * entropy(LOGITS[2], 2)) / 7
    assert loss("multiclass", LOGITS, [1, 0, 2], weights) == pytest.approx(expected)
    expected = (3 * binary_entropy(2, 1) + 0.5 * binary_entropy(9, 0) + 3 * binary_entropy(-0.5, 1)) / 6.5
    binary = loss("binary", [[2.0], [9.0], [-0.5]], [1.0, 0, 1], torch.tensor([0.5, 3.0]), ("no", "yes"))
    assert binary == pytest.approx(expected)
    above = ([1, 0], [0, 0], [1, 1])
    rows = [binary_entropies(row[:2], truth) for row, truth in zip(LOGITS, above, strict=True)]
    ordinal = loss("ordinal", [row[:2] for row in LOGITS], [1, 0, 2], weights)
    assert ordinal == pytest.approx((2 * rows[0] + rows[1] + 4 * rows[2]) / 7)
    labels: list[list[float]] = [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    cells = [
        (1 + y * (w - 1)) * binary_entropy(x, y)
        for row, truth in zip(LOGITS, labels, strict=True)
        for x, y, w in zip(row, truth, (1, 2, 4), strict=True)
    ]
    assert loss("multilabel", LOGITS, labels, weights) == pytest.approx(sum(cells) / 9)


def test_a_step_adds_the_targets_up() -> None:
    joint = joint_toy.objectives(SUPERVISED)
    model = joint_toy.model(joint).eval()
    batch = joint_toy.batch()
    result = joint(joint_toy.step(model, batch))
    found = model(batch.inputs).predictions
    sick = binary_entropies(found["sick"][:, 0].tolist(), batch.targets["sick"].tolist()) / 6
    kind = sum(entropy(x, y) for x, y in zip(found["kind"].tolist(), batch.targets["kind"].tolist(), strict=True)) / 6
    assert result.loss.item() == pytest.approx(sick + kind, rel=1e-5)
    assert {name: value.item() for name, value in result.log.items()} == pytest.approx(
        {"sick_loss": sick, "kind_loss": kind, "supervised": sick + kind}, rel=1e-5
    )
    assert not any(value.requires_grad for value in result.log.values())


@pytest.mark.parametrize("balance", ["sum", "uncertainty", "gradnorm"])
def test_a_target_that_is_unknown_in_a_batch_counts_nothing(balance: str) -> None:
    joint = joint_toy.objectives(SUPERVISED | {"balance": balance})
    model = joint_toy.model(joint)
    batch = joint_toy.batch()
    unknown = torch.zeros(6, dtype=torch.bool)
    result = joint(joint_toy.step(model, batch._replace(known={**batch.known, "kind": unknown})))
    result.loss.backward()
    grads = {name: weight.grad for name, weight in model.heads.named_parameters()}
    assert grads["targets.sick.1.weight"] is not None
    assert grads["targets.kind.1.weight"] is None or not grads["targets.kind.1.weight"].any()
    assert result.log["kind_loss"].item() == 0
    nothing = joint(joint_toy.step(model, batch._replace(known={"sick": unknown, "kind": unknown})))
    assert nothing.loss.item() == 0
    nothing.loss.backward()


def test_the_log_has_the_plain_sum_whatever_the_balance() -> None:
    batch = joint_toy.batch()
    shown = {}
    for balance in ("sum", "uncertainty", "gradnorm", {"kind": "fixed", "weights": {"sick": 9.0}}):
        joint = joint_toy.objectives(SUPERVISED | {"balance": balance})
        result = joint(joint_toy.step(joint_toy.model(joint).eval(), batch))
        shown[str(balance)] = result.log["supervised"].item()
    assert len(set(shown.values())) == 1


def test_gradnorm_looks_at_the_last_weights_that_are_shared() -> None:
    joint = joint_toy.objectives(SUPERVISED | {"balance": "gradnorm"})
    model: Any = joint_toy.model(joint).eval()
    step = joint_toy.step(model)
    (objective,) = joint.objectives
    assert isinstance(objective, Supervised)
    assert isinstance(objective.balance, GradNorm)
    first = next(iter(shared_weights(model)))
    assert first is model.fusion.blocks[-1].mlp.fc2.weight
    joint(step).loss.backward()
    pull = objective.balance.logits.grad
    assert pull is not None
    assert pull.abs().sum() > 0
    for weight in [*model.encoders.parameters(), *model.fusion.parameters()]:
        weight.requires_grad_(False)
    assert list(shared_weights(model)) == []


def test_tied_towers_add_their_distance() -> None:
    joint = joint_toy.objectives(SUPERVISED)
    sharing: dict[str, Any] = {"heads": {"targets": joint_toy.HEADS, "sharing": {"kind": "tied", "strength": 0.1}}}
    model = joint_toy.model(joint, **sharing).eval()
    result = joint(joint_toy.step(model))
    assert model.heads.tie().item() > 0
    assert result.loss.item() == pytest.approx((result.log["supervised"] + model.heads.tie()).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["sik"]}, '"sik" is no target; targets: sick, kind; did you mean "sick"'),
        ({"class_weights": {"kind": [1.0, 2.0]}}, r'class_weights of "kind" must be 3 numbers \(a, b, c\), got 2'),
    ],
)
def test_what_cannot_be_asked_says_why(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        joint_toy.objectives(SUPERVISED | changes)


def test_numbers_have_no_classes_to_weigh() -> None:
    known = joint_toy.features({"price": {"columns": ["price"], "task": "regression"}})
    with pytest.raises(ConfigError, match='class_weights of "price": a regression target has no classes'):
        joint_toy.objectives(SUPERVISED | {"class_weights": {"price": [1.0]}}, known=known)
    with pytest.raises(ConfigError, match="there is no target; name"):
        joint_toy.objectives(SUPERVISED, known=joint_toy.features({}))


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({"sick": {"kind": "linear", "outputs": 1}}, 'target "kind" has no head; the model has heads: sick'),
        (
            {**joint_toy.HEADS, "kind": {"kind": "linear", "outputs": 2}},
            'head "kind" must have 3 outputs for its multiclass',
        ),
        (
            {**joint_toy.HEADS, "kind": {"kind": "token_linear", "outputs": 3, "input": "text"}},
            "a head of kind token_linear does not fit",
        ),
    ],
)
def test_heads_that_do_not_fit_the_targets(heads: dict[str, Any], message: str) -> None:
    joint = joint_toy.objectives(SUPERVISED)
    with pytest.raises(ConfigError) as error:
        joint_toy.model(joint, heads={"targets": heads})
    assert message in str(error.value)


def test_only_some_targets() -> None:
    joint = joint_toy.objectives(SUPERVISED | {"targets": ["kind"]})
    result = joint(joint_toy.step(joint_toy.model(joint)))
    assert set(result.log) == {"kind_loss", "supervised"}
    assert isinstance(joint.objectives[0], Supervised)
