"""The rows on which all models of a comparison are measured.

N rows; C outputs of a target.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from polymodal.data.feature_rows import FeatureRows
from polymodal.data.manifest import Manifest
from polymodal.engine import load_predictor
from polymodal.evaluate.baseline import constant, repeated
from polymodal.evaluate.contenders import Ground
from polymodal.evaluate.entries import Entry
from polymodal.features import Features
from polymodal.metrics.score import Score, difference, score
from polymodal.text import Tokenizer
from polymodal.types import Batch

OUTPUTS = "held-out.safetensors"

Outputs = Mapping[str, Tensor]  # logits or scaled values (N, C) by the target's name, of tokens (N, L, C)


class HeldOut:
    def __init__(self, common: Ground) -> None:
        self.common = common
        self.rows, self.part = common.held_out
        self.truth = labels(self.rows, common.features, common.tokenizer)

    def baseline(self) -> Outputs:
        """What always the same answer gives, the best one for the training rows."""
        train = labels(self.common.rows.train, self.common.features, self.common.tokenizer)
        return {
            name: repeated(constant(target, train.targets[name], train.known[name]), self.truth.targets[name], target)
            for name, target in self.common.features.targets.items()
        }

    def outputs(self, run: Path) -> Outputs:
        """What the run's model says of the rows; kept in the run's folder."""
        predictor = load_predictor(run)
        found = predictor.outputs(predictor.rows(self.rows), progress=True)
        save_file({name: values.contiguous() for name, values in found.items()}, run / OUTPUTS)
        return found

    def score(self, outputs: Outputs) -> Score:
        """
        Raises:
            DataError: an output is not finite.
        """
        seed = self.common.recipe.trainer.seed
        return score(self.common.features.targets, outputs, self.truth.targets, self.truth.known, seed)


def ranked(entries: Sequence[Entry], scores: Mapping[str, Score]) -> tuple[Entry, ...]:
    """The entries with their scores, intervals and differences to the best single input; the best first."""
    singles = [entry.name for entry in entries if entry.kind == "single" and _value(scores.get(entry.name)) > -np.inf]
    best = max(singles, key=lambda name: _value(scores[name]), default=None)
    measured = [
        _measured(entry, scores[entry.name], scores.get(best or "")) if entry.name in scores else entry
        for entry in entries
    ]
    return tuple(sorted(measured, key=lambda entry: -np.inf if entry.score is None else entry.score, reverse=True))


def _measured(entry: Entry, own: Score, best: Score | None) -> Entry:
    apart = difference(own, best) if best is not None and best is not own else None
    return entry.model_copy(
        update={
            "score": own.value,
            "interval": own.interval and tuple(own.interval),
            "difference": apart and tuple(apart),
            "reports": own.reports,
        }
    )


def _value(own: Score | None) -> float:
    return -np.inf if own is None or own.value is None else own.value


def kept_outputs(run: Path) -> Outputs | None:
    """What the run's model said of the rows; None where that is not there, or not whole."""
    try:
        return load_file(run / OUTPUTS)
    except (OSError, SafetensorError):
        return None


def labels(rows: Manifest, features: Features, tokenizer: Tokenizer | None) -> Batch:
    """The targets of all rows; as little as can be is prepared of the inputs, and nothing read."""
    worded = {target.text for target in features.targets.values() if target.task == "tokens"}
    kinds = sorted(features.inputs, key=lambda name: features.inputs[name].kind == "text")
    inputs = {name: features.inputs[name] for name in worded or kinds[:1]}
    found = FeatureRows(rows, features.model_copy(update={"inputs": inputs}), tokenizer)
    return found.batch(np.arange(len(rows)), only=())
