"""One number for a model of several targets, with an interval, and the difference of two models.

Source of the paired bootstrap: Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation".
N rows; R resamples.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from polymodal.features import Target
from polymodal.metrics.intervals import Interval, Statistic, percentiles, resampled
from polymodal.metrics.supervised import MAIN_METRIC, measure


class Score(NamedTuple):
    value: float | None  # the mean of the targets' main metrics; None where none is defined
    values: NDArray[np.float64]  # (R,) of resamples of the rows, the same rows for every model
    reports: dict[str, dict[str, Any]]  # by the target's name

    @property
    def interval(self) -> Interval | None:
        """95 %, by bootstrap over rows."""
        return None if self.value is None else percentiles(self.values)


class Difference(NamedTuple):
    value: float
    low: float  # of the 95 % interval
    high: float


def score(
    targets: Mapping[str, Target],
    outputs: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    known: Mapping[str, Tensor],
    seed: int = 0,
) -> Score:
    """How good a model's outputs (N, ...) are on N rows.

    Args:
        outputs, labels, known: by the target's name, as `supervised.report` takes them.

    Raises:
        DataError: an output is not finite.
    """
    reports, found, statistics = {}, [], []
    for name, target in targets.items():
        there = known[name].cpu().numpy()
        measured = measure(target.task, outputs[name], labels[name], there, target.classes, std=target.std)
        main = MAIN_METRIC[target.task]
        reports[name] = measured.report
        if measured.report.get(main) is not None:
            found.append(measured.report[main])
            statistics.append(_over_rows(measured.statistics[main], np.asarray(there.reshape(len(there), -1).any(1))))
    if not found:
        return Score(None, np.empty(0), reports)
    rows = len(next(iter(labels.values())))
    values = resampled(lambda drawn: np.mean([one(drawn) for one in statistics], axis=0), rows, seed=seed)
    return Score(float(np.mean(found)), values, reports)


def difference(one: Score, other: Score) -> Difference | None:
    """`one` minus `other`, measured on the same rows with the same seed; None where either has no value."""
    if one.value is None or other.value is None:
        return None
    return Difference(one.value - other.value, *percentiles(one.values - other.values))


def _over_rows(statistic: Statistic, known: NDArray[np.bool_]) -> Statistic:
    """A statistic of the known rows as one of all rows: of each resample it sees those that are known."""
    if known.all():
        return statistic
    place = np.cumsum(known) - 1

    def of_rows(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        # Resamples hold different numbers of known rows, so each is asked on its own.
        kept = (row[known[row]] for row in rows)
        return np.array([statistic(place[row][None])[0] if len(row) else np.nan for row in kept])

    return of_rows
