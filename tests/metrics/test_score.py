import numpy as np
import pytest
import torch

from polymodal.features import Target
from polymodal.metrics.score import difference, score

YES = Target(columns=("y",), task="multiclass", classes=("a", "b"))
PRICE = Target(columns=("p",), task="regression", mean=3.0, std=2.0)


def logits(right: list[bool], labels: torch.Tensor) -> torch.Tensor:
    said = torch.where(torch.tensor(right), labels, 1 - labels)
    return torch.nn.functional.one_hot(said, 2).float()


def test_of_one_target_it_is_its_main_metric() -> None:
    labels = {"y": torch.tensor([0, 1, 1, 0])}
    found = score({"y": YES}, {"y": logits([True, True, True, False], labels["y"])}, labels, {"y": torch.ones(4) > 0})
    assert found.value == 0.75
    assert found.reports["y"]["accuracy"] == 0.75
    assert found.interval is not None
    assert 0 <= found.interval.low < 0.75 < found.interval.high <= 1
    assert set(np.round(found.values, 2)) <= {0, 0.25, 0.5, 0.75, 1}


def test_of_several_it_is_the_mean_and_unknown_labels_have_no_say() -> None:
    labels = {"y": torch.tensor([0, 1, 1, 0, 0]), "p": torch.tensor([1.0, 2.0, 3.0, -50.0, 4.0])}
    known = {"y": torch.tensor([True, True, True, True, False]), "p": torch.tensor([True, True, True, False, True])}
    outputs = {"y": logits([True, True, False, False, False], labels["y"]), "p": labels["p"][:, None].clone()}
    outputs["p"][3] = 1000.0
    found = score({"y": YES, "p": PRICE}, outputs, labels, known)
    assert found.value == pytest.approx((0.5 + 1.0) / 2)
    # r2 is 1 in every resample that has two different known prices, accuracy from 0 to 1.
    defined = found.values[~np.isnan(found.values)]
    assert len(defined) > 900
    assert set(np.round(2 * defined - 1, 6)) <= {round(k / n, 6) for n in range(1, 6) for k in range(n + 1)}


def test_a_difference_is_paired() -> None:
    """Two models that are right on the same rows but one: unpaired intervals overlap, the difference's does not."""
    draw = np.random.default_rng(0)
    right = draw.random(400) < 0.7
    better = right.copy()
    better[np.flatnonzero(~right)[:20]] = True
    labels, known = {"y": torch.from_numpy(draw.integers(2, size=400))}, {"y": torch.ones(400, dtype=torch.bool)}
    one, other = (
        score({"y": YES}, {"y": logits(flags.tolist(), labels["y"])}, labels, known) for flags in (better, right)
    )
    found = difference(one, other)
    assert found is not None
    assert found.value == pytest.approx(20 / 400)
    assert one.interval is not None
    assert other.interval is not None
    assert one.interval.low < other.interval.high
    # By hand: the mean of 400 numbers, 20 of them 1 and the rest 0, has a standard error of sqrt(.05 * .95 / 400).
    assert found.low == pytest.approx(0.05 - 1.96 * 0.0109, abs=0.005)
    assert found.high == pytest.approx(0.05 + 1.96 * 0.0109, abs=0.005)


def test_where_nothing_is_defined_there_is_no_score() -> None:
    same = {"y": torch.zeros(3)}
    binary = Target(columns=("y",), task="binary", classes=("no", "yes"))
    found = score({"y": binary}, {"y": torch.randn(3, 1)}, same, {"y": torch.ones(3, dtype=torch.bool)})
    assert (found.value, found.interval) == (None, None)
    assert difference(found, found) is None


def test_a_target_without_a_known_label_leaves_the_score_to_the_others() -> None:
    labels = {"y": torch.tensor([0, 1]), "p": torch.zeros(2)}
    known = {"y": torch.ones(2, dtype=torch.bool), "p": torch.zeros(2, dtype=torch.bool)}
    outputs = {"y": logits([True, True], labels["y"]), "p": torch.zeros(2, 1)}
    found = score({"y": YES, "p": PRICE}, outputs, labels, known)
    assert found.value == 1.0
    assert found.reports["p"] == {"rows": 0}
