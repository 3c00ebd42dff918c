"""Classification of pictures: zero-shot by the names of the classes, and by what frozen vectors allow to learn.

n rows; D width; C classes.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from polymodal.engine import Engine
from polymodal.engine.templates import templates_for
from polymodal.errors import DataError
from polymodal.evaluate.measures import classification_measures
from polymodal.metrics.chance import classification_chance
from polymodal.metrics.classification import confusion, per_class

Vectors = NDArray[np.float32]

STRENGTHS = tuple(float(c) for c in np.logspace(-2, 4, 7))  # C of the probe: vectors of unit length want large ones
STEPS = 1000  # of L-BFGS at most
NEIGHBORS = 20  # and
TEMPERATURE = 0.07  # of DINO's weighted k-NN (arXiv:2104.14294, section 4.1)
CONFUSION_CLASSES = 30  # more of them make no readable matrix


class Labeled(NamedTuple):
    """Pictures and the names of their classes."""

    vectors: Vectors  # (n, D), unit length
    names: list[str]


def zero_shot(engine: Engine, test: Labeled, templates: Sequence[str] | None, seed: int) -> dict[str, Any]:
    """By cosine with each class's vector (`Engine.class_vectors`); the classes are those that occur in `test`."""
    classes = _classes("zero-shot", test.names)
    scores = test.vectors @ engine.class_vectors(classes, templates).T
    used = sorted({template for name in classes for template in (templates or templates_for(name))})
    return _result(scores, test.names, classes, seed) | {"templates": used}


def linear_probe(train: Labeled, val: Labeled | None, test: Labeled, seed: int) -> dict[str, Any]:
    """Logistic regression; C is chosen on `val`, then the probe is fitted again on `train` and `val` together.

    Without `val`, a fifth of `train` is set aside for the choice.
    """
    _classes("probe", train.names)
    learn, choose = (train, val) if val is not None else _set_aside_a_fifth(train, seed)
    by_strength = {c: float(np.mean(_fit(c, learn).predict(choose.vectors) == choose.names)) for c in STRENGTHS}
    best = max(by_strength, key=by_strength.__getitem__)  # of equals the first, the most regular
    whole = Labeled(np.concatenate([learn.vectors, choose.vectors]), learn.names + choose.names)
    probe = _fit(best, whole)
    return _learned(probe, test, seed) | {
        "C": best,
        "accuracy_on_val_by_C": by_strength,
        "converged": bool(probe.n_iter_.max() < STEPS),
        "train_rows": len(whole.names),
    }


def nearest_neighbors(train: Labeled, test: Labeled, seed: int) -> dict[str, Any]:
    """The 20 nearest of `train` vote with weight exp(cosine / 0.07)."""
    _classes("knn", train.names)
    count = min(NEIGHBORS, len(train.names))
    # On unit vectors the squared distance is 2 - 2 cosine; a factor common to all weights changes no vote.
    voters = KNeighborsClassifier(
        count, metric="sqeuclidean", weights=lambda squared: np.exp(-squared / 2 / TEMPERATURE)
    )
    voters.fit(train.vectors, train.names)
    return _learned(voters, test, seed) | {"neighbors": count, "train_rows": len(train.names)}


def _fit(strength: float, train: Labeled) -> LogisticRegression:
    # Threads that wait for each other cost more than products this small, above all when other programs run.
    threads = 1 if train.vectors.size * len(set(train.names)) < 1e8 else None
    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is reported as "converged" of the one that counts
        return LogisticRegression(C=strength, max_iter=STEPS).fit(train.vectors, train.names)


def _set_aside_a_fifth(train: Labeled, seed: int) -> tuple[Labeled, Labeled]:
    fewest = min(Counter(train.names).values())
    if fewest < 2:
        raise DataError(
            f"probe: without a val split every class needs 2 rows of train or more, got {fewest} of one; "
            "make a val split (`polymodal split`) or add rows"
        )
    size = max(len(train.names) // 5, len(set(train.names)))  # one of each class at least
    learn, choose = train_test_split(
        np.arange(len(train.names)), test_size=size, stratify=train.names, random_state=seed
    )
    return _pick(train, learn), _pick(train, choose)


def _pick(rows: Labeled, chosen: NDArray[np.int64]) -> Labeled:
    return Labeled(rows.vectors[chosen], [rows.names[i] for i in chosen])


def _learned(model: Any, test: Labeled, seed: int) -> dict[str, Any]:
    known = [str(name) for name in model.classes_]
    unseen = sorted(set(test.names) - set(known))
    classes = known + unseen
    scores = np.full((len(test.names), len(classes)), -1.0)  # below every probability: an unseen class is never named
    scores[:, : len(known)] = model.predict_proba(test.vectors)
    return _result(scores, test.names, classes, seed) | {"classes_not_in_train": unseen}


def _result(scores: NDArray[Any], names: list[str], classes: list[str], seed: int) -> dict[str, Any]:
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[name] for name in names])
    measures, predictions = classification_measures(scores, labels, seed)
    result = {
        "rows": len(names),
        "classes": len(classes),
        "majority": classification_chance(labels, len(classes))["majority"],
        "metrics": {name: measure._asdict() for name, measure in measures.items()},
        "per_class": per_class(labels, predictions, classes),
    }
    if len(classes) <= CONFUSION_CLASSES:
        result["confusion"] = {"classes": classes, "counts": confusion(labels, predictions, len(classes)).tolist()}
    return result


def _classes(task: str, names: list[str]) -> list[str]:
    classes = sorted(set(names))
    if len(classes) < 2:
        raise DataError(f"{task}: wanted two classes or more, got {len(classes)}: {', '.join(classes) or 'no rows'}")
    return classes
