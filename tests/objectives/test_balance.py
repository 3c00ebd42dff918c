"""Ways to make one loss of several: known values, and GradNorm worked out by hand."""

import math
from collections.abc import Iterable

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from polymodal.errors import ConfigError, TrainError
from polymodal.objectives.balance import BalanceConfig, FixedConfig, GradNorm, GradNormConfig, Uncertainty

NAMES = ("a", "b")


def no_weights() -> Iterable[Tensor]:
    return iter(())


def losses(*values: float) -> dict[str, Tensor]:
    return dict(zip("abc", map(torch.tensor, values), strict=False))


def balance(config: object) -> nn.Module:
    parsed: BalanceConfig = TypeAdapter(BalanceConfig).validate_python(config)
    return parsed.build(NAMES)


def test_a_way_can_be_named_alone() -> None:
    assert balance("sum")(losses(1.0, 2.0), no_weights)[0].item() == 3
    assert isinstance(balance("gradnorm"), GradNorm)
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        balance("average")


def test_fixed_weights() -> None:
    loss, shown = balance({"kind": "fixed", "weights": {"b": 0.5}})(losses(1.0, 2.0), no_weights)
    assert loss.item() == 2
    assert shown == {}
    with pytest.raises(ConfigError, match='balance fixed: "bb" is no target; targets: a, b'):
        FixedConfig(weights={"bb": 1.0}).build(NAMES)


def test_kendalls_known_value() -> None:
    module = Uncertainty(NAMES, 0.0)
    with torch.no_grad():
        module.log_variance.copy_(torch.tensor([0.3, -0.5]))
    loss, shown = module(losses(1.0, 2.0), no_weights)
    assert loss.item() == pytest.approx(1.919130, abs=1e-6)
    assert shown["b_log_variance"].item() == pytest.approx(-0.5)
    assert not shown["a_log_variance"].requires_grad


def test_kendall_is_least_where_the_variance_is_the_loss() -> None:
    module = Uncertainty(NAMES, 0.0)
    with torch.no_grad():
        module.log_variance.copy_(torch.tensor([math.log(3.0), math.log(0.2)]))
    module(losses(3.0, 0.2), no_weights)[0].backward()
    assert module.log_variance.grad is not None
    assert module.log_variance.grad.tolist() == pytest.approx([0, 0], abs=1e-6)
    assert module({"b": torch.tensor(0.001)}, no_weights)[0].item() < 0  # so nothing may watch it


def test_a_target_without_labels_leaves_its_variance_alone() -> None:
    module = Uncertainty(NAMES, 0.0)
    module({"b": torch.tensor(2.0)}, no_weights)[0].backward()
    assert module.log_variance.grad is not None
    assert module.log_variance.grad.tolist() == pytest.approx([0, -0.5])


class TwoTasks:
    """h = W x; L_a = (a · h - 1)², L_b = (b · h + 2)²."""

    def __init__(self) -> None:
        self.shared = torch.tensor([[0.5, -1.0], [2.0, 0.25]], requires_grad=True)
        self.unused = torch.ones(2, 2, requires_grad=True)
        self.x, self.a, self.b = torch.tensor([1.0, 3.0]), torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.5])

    def losses(self) -> dict[str, Tensor]:
        h = self.shared @ self.x
        return {"a": (self.a @ h - 1) ** 2, "b": (self.b @ h + 2) ** 2}

    def weights(self) -> Iterable[Tensor]:
        return iter([self.unused, self.shared])

    def norms(self) -> list[float]:
        """|2 (a · h - 1) a xᵀ| and the same of b."""
        h, length = [0.5 - 3.0, 2.0 + 0.75], math.sqrt(10)
        a, b = h[0] - 2 * h[1] - 1, 0.5 * h[0] + 0.5 * h[1] + 2
        return [abs(2 * a) * math.sqrt(5) * length, abs(2 * b) * math.sqrt(0.5) * length]


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_gradnorm_is_what_it_is_by_hand(alpha: float) -> None:
    tasks, module = TwoTasks(), GradNorm(NAMES, alpha)
    with torch.no_grad():
        module.logits.copy_(torch.tensor([0.4, -0.2]))
        module.first.copy_(torch.tensor([100.0, 4.0]))  # the losses at the start
    values = [loss.item() for loss in tasks.losses().values()]
    loss, shown = module(tasks.losses(), tasks.weights)
    share = math.exp(0.4) / (math.exp(0.4) + math.exp(-0.2))
    weights = [2 * share, 2 * (1 - share)]
    left = [values[0] / 100, values[1] / 4]
    mean = sum(left) / 2
    pulls = [w * n for w, n in zip(weights, tasks.norms(), strict=True)]
    wanted = [sum(pulls) / 2 * (one / mean) ** alpha for one in left]
    gap = sum(abs(g - w) for g, w in zip(pulls, wanted, strict=True))
    total = sum(w * value for w, value in zip(weights, values, strict=True))
    assert loss.item() == pytest.approx(total + gap, rel=1e-5)
    assert shown["a_weight"].item() == pytest.approx(weights[0])

    loss.backward()
    # The model follows the weighted losses alone ...
    assert tasks.shared.grad is not None
    again = torch.stack(list(tasks.losses().values())) @ torch.tensor(weights)
    pulled = torch.autograd.grad(again, tasks.shared)
    torch.testing.assert_close(tasks.shared.grad, pulled[0])
    # ... and the weights the gaps alone: d gap / d w_t = ±|∇ L_t|, d w_a / d θ_a = -d w_b / d θ_a = w_a w_b / 2.
    signs = [math.copysign(1, g - w) for g, w in zip(pulls, wanted, strict=True)]
    slope = weights[0] * weights[1] / 2 * (signs[0] * tasks.norms()[0] - signs[1] * tasks.norms()[1])
    assert module.logits.grad is not None
    assert module.logits.grad.tolist() == pytest.approx([slope, -slope], rel=1e-4)


def test_gradnorm_calms_the_loud_task() -> None:
    tasks, module = TwoTasks(), GradNorm(NAMES, 0.0)
    optimizer = torch.optim.SGD([module.logits], lr=0.002)
    for _ in range(400):
        optimizer.zero_grad()
        module(tasks.losses(), tasks.weights)[0].backward()
        optimizer.step()
    weights = 2 * module.logits.detach().softmax(0)
    loud, quiet = (weight * norm for weight, norm in zip(weights.tolist(), tasks.norms(), strict=True))
    assert loud == pytest.approx(quiet, rel=0.05)
    assert weights.sum().item() == pytest.approx(2)


def test_the_first_loss_of_each_target_is_kept() -> None:
    tasks, module = TwoTasks(), GradNorm(NAMES, 1.5)
    values = {name: loss.item() for name, loss in tasks.losses().items()}
    module({"a": tasks.losses()["a"]}, tasks.weights)
    module(tasks.losses(), tasks.weights)
    module({name: 7 * loss for name, loss in tasks.losses().items()}, tasks.weights)
    assert module.first.tolist() == pytest.approx([values["a"], values["b"]])
    assert "first" in module.state_dict()


def test_gradnorm_without_gradients_is_the_weighted_sum() -> None:
    module = GradNormConfig().build(NAMES)
    with torch.no_grad():
        assert module(losses(1.0, 2.0), no_weights)[0].item() == pytest.approx(3)


def test_nothing_shared_that_learns_is_an_error() -> None:
    with pytest.raises(TrainError, match="the targets a, b share no weight that learns; unfreeze the fusion"):
        GradNorm(NAMES, 1.5)(TwoTasks().losses(), no_weights)
