"""Co-training: two views of the same rows label for each other what they are sure of.

Source: Blum and Mitchell 1998, COLT, "Combining Labeled and Unlabeled Data with Co-Training", algorithm of table 1: a
pool of 75 unlabeled rows, 30 rounds, 1 positive and 3 negatives a view and round. Here with any number of classes: a
quota for each, by default in the ratio of the labels. It helps where each view could do alone and their errors do not
go together; two equal views have nothing to learn from each other.

It is not joint training of two inputs, which every fusion does.
n rows; C classes; U rows of the pool.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from polymodal.errors import DataError

Rows = NDArray[Any]  # (n, ...)
Labels = NDArray[np.int64]


class Classifier(Protocol):
    """What scikit-learn's classifiers are."""

    classes_: NDArray[Any]

    def fit(self, rows: Rows, labels: Labels) -> Self: ...

    def predict_proba(self, rows: Rows) -> NDArray[np.float64]: ...


One = TypeVar("One", bound=Classifier)


class CoTrained(NamedTuple):
    """Two classifiers, fitted on labels and on what they gave each other."""

    first: Classifier
    second: Classifier
    labels: Labels  # (n,), the given ones and those that the views added; -1 where there is still none
    added: list[int]  # rows that were given a label in each round

    def predict_proba(self, first: Rows, second: Rows) -> NDArray[np.float64]:
        """(n, C), the mean of both views' probabilities, by which a disagreement is settled."""
        return (self.first.predict_proba(first) + self.second.predict_proba(second)) / 2

    def predict(self, first: Rows, second: Rows) -> NDArray[np.int64]:
        """(n,) classes, as `labels` has them."""
        best: NDArray[np.int64] = self.first.classes_[self.predict_proba(first, second).argmax(1)]
        return best


def cotrain(
    views: tuple[Rows, Rows],
    labels: Labels,
    known: NDArray[np.bool_],
    classifiers: tuple[One, One],
    *,
    rounds: int = 30,
    pool: int = 75,
    quota: Mapping[int, int] | None = None,
    confidence: float = 0.5,
    seed: int = 0,
) -> CoTrained:
    """Two classifiers that have taught each other.

    In each round both are fitted anew; each picks for every class the rows of the pool of which it is surest, and they
    get that label for both. The pool is filled up at random. It ends when nothing is added or nothing is left.

    Args:
        views: two views of the same n rows.
        labels: (n,); what stands at unknown ones has no effect.
        known: (n,).
        classifiers: an unfitted one for each view, as scikit-learn has them.
        pool: U, rows that are looked at in a round.
        quota: by the class, how many rows each view labels in a round; None: in the ratio of the known labels, the
            rarest class 1.
        confidence: a row is not labeled below this probability.

    Raises:
        DataError: the views differ in rows, fewer than two classes are known, or a quota names another class.
    """
    classes = _check(views, labels, known, quota)
    draw = np.random.default_rng(seed)
    labels = np.where(known, labels, -1)
    waiting = draw.permutation(np.flatnonzero(~known))
    each = quota or _ratio(labels[known], classes)
    added: list[int] = []
    pair = _fit(views, labels, known, classifiers)
    looked_at, waiting = waiting[:pool], waiting[pool:]
    for _ in range(rounds):
        given = _pick(views, looked_at, pair, each, confidence)
        if not given:
            break
        labels[list(given)] = list(given.values())
        added.append(len(given))
        pair = _fit(views, labels, labels >= 0, classifiers)
        looked_at = looked_at[labels[looked_at] < 0]
        room = pool - len(looked_at)
        looked_at, waiting = np.concatenate([looked_at, waiting[:room]]), waiting[room:]
    return CoTrained(*pair, labels, added)


def _pick(
    views: tuple[Rows, Rows], rows: Labels, pair: tuple[Classifier, Classifier], quota: Mapping[int, int], least: float
) -> dict[int, int]:
    """Labels by the row's number. Where the views name two classes for a row, the surer one has its way."""
    if not len(rows):
        return {}
    picked: dict[int, tuple[float, int]] = {}
    for view, classifier in zip(views, pair, strict=True):
        shares = classifier.predict_proba(view[rows])
        for column, name in enumerate(classifier.classes_):
            for place in (-shares[:, column]).argsort(kind="stable")[: quota.get(int(name), 0)]:
                share = float(shares[place, column])
                if share >= least and share > picked.get(int(rows[place]), (0.0, 0))[0]:
                    picked[int(rows[place])] = share, int(name)
    return {row: name for row, (_, name) in picked.items()}


def _fit(
    views: tuple[Rows, Rows], labels: Labels, known: NDArray[np.bool_], classifiers: tuple[One, One]
) -> tuple[One, One]:
    first, second = (clone(one).fit(view[known], labels[known]) for one, view in zip(classifiers, views, strict=True))
    return first, second


def _ratio(labels: Labels, classes: Labels) -> dict[int, int]:
    counts = np.array([(labels == one).sum() for one in classes])
    return {int(one): round(count / counts.min()) for one, count in zip(classes, counts, strict=True)}


def _check(
    views: tuple[Rows, Rows], labels: Labels, known: NDArray[np.bool_], quota: Mapping[int, int] | None
) -> Labels:
    lengths = {len(views[0]), len(views[1]), len(labels), len(known)}
    if len(lengths) > 1:
        raise DataError(
            f"cotrain: both views, labels and known must have as many rows, got {len(views[0])}, {len(views[1])}, "
            f"{len(labels)} and {len(known)}"
        )
    classes = np.unique(labels[known])
    if len(classes) < 2:
        raise DataError(f"cotrain: wanted known labels of two classes or more, got {len(classes)}")
    strangers = sorted(set(quota or ()) - set(classes.tolist()))
    if strangers:
        raise DataError(f"cotrain: the quota names class {strangers[0]}, of which no label is known")
    return classes
