"""Temperatures of the targets, fitted on validation rows: a probability then means what it says (Guo et al. 2017).

No answer changes: logits are divided by one number. n labels that are known; C classes.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.feature_rows import FeatureRows
from polymodal.engine import Predictor
from polymodal.features import Features, Target
from polymodal.metrics.calibration import fit_temperature, two_classes

LEAST = 30  # labels from which a temperature can be told


def with_temperatures(predictor: Predictor, val: FeatureRows) -> Features:
    """The predictor's features, each target of classes or labels with its temperature.

    It stays 1 where there are fewer than `LEAST` labels, and where every answer is right: the colder the better then,
    without end, which is no measurement. Numbers have no probability, and scores of soft answers are right by degree.
    """
    features = predictor.features
    if all(target.task in ("regression", "soft") for target in features.targets.values()):
        return features
    seen = predictor.see(val)
    targets = {
        name: target.model_copy(
            update={"temperature": temperature(target, seen.outputs[name], seen.targets[name], seen.known[name])}
        )
        for name, target in features.targets.items()
    }
    return features.model_copy(update={"targets": targets})


def temperature(target: Target, outputs: Tensor, values: Tensor, known: Tensor) -> float:
    """By which logits of one target are best divided; arguments as `Seen` has them."""
    if target.task in ("regression", "soft"):
        return 1.0
    logits, labels = _decisions(target, outputs.double(), values, known)
    if len(labels) < LEAST or not np.isfinite(logits).all() or (logits.argmax(1) == labels).all():
        return 1.0
    return fit_temperature(logits, labels)


def _decisions(
    target: Target, outputs: Tensor, values: Tensor, known: Tensor
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Logits (n, C) and classes (n,); labels, and thresholds of ordered classes, are decisions of two classes each."""
    match target.task:
        case "binary":
            return two_classes(outputs[:, 0][known].numpy()), values[known].long().numpy()
        case "multilabel":
            return two_classes(outputs[known].numpy()), (values[known] > 0.5).long().numpy()
        case "ordinal":
            above = values[known][:, None] > torch.arange(outputs.shape[1])
            return two_classes(outputs[known].flatten().numpy()), above.flatten().long().numpy()
        case _:
            return outputs[known].numpy(), values[known].numpy()
