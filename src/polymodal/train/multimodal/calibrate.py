"""Temperatures of the targets, fitted on validation rows: a probability then means what it says (Guo et al. 2017).

No answer changes: logits are divided by one number. n labels that are known; C classes.
"""

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor

from polymodal.engine.answers import stacked
from polymodal.features import Features, Target
from polymodal.metrics.calibration import fit_temperature, two_classes
from polymodal.models.multimodal import Multimodal
from polymodal.train.multimodal.data import Rows
from polymodal.types import Batch

BATCH_SIZE = 64
LEAST = 30  # labels from which a temperature can be told


def with_temperatures(model: Multimodal, features: Features, val: Rows) -> Features:
    """The features, each target of classes or labels with its temperature.

    It stays 1 where there are fewer than `LEAST` labels, and where every answer is right: the colder the better then,
    without end, which is no measurement. Numbers have no probability, and scores of soft answers are right by degree.

    Args:
        val: with targets; what locked encoders say may stand in place of their inputs.
    """
    if all(target.task in ("regression", "soft") for target in features.targets.values()):
        return features
    outputs, batches = _seen(model.eval(), features, val)
    targets = {
        name: target.model_copy(
            update={
                "temperature": temperature(
                    target,
                    stacked([one[name] for one in outputs]),
                    stacked([batch.targets[name] for batch in batches]),
                    stacked([batch.known[name] for batch in batches]),
                )
            }
        )
        for name, target in features.targets.items()
    }
    return features.model_copy(update={"targets": targets})


@torch.inference_mode()
def _seen(model: Multimodal, features: Features, val: Rows) -> tuple[list[dict[str, Tensor]], list[Batch]]:
    """Predictions of each batch, and the batches without their inputs."""
    device = next(model.parameters()).device
    outputs, batches = [], []
    for start in range(0, len(val), BATCH_SIZE):
        batch = val.batch(range(start, min(start + BATCH_SIZE, len(val))))
        inputs, present = move_data_to_device((features.normalize(batch.inputs), dict(batch.present)), device)
        predictions = model(inputs, present).predictions
        outputs.append({name: predictions[name].float().cpu() for name in features.targets})
        batches.append(batch._replace(inputs={}))
    return outputs, batches


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
