"""What a model answers that looks at nothing: always the most frequent class, always the mean.

N rows; C outputs of a target.
"""

import torch
from torch import Tensor

from polymodal.features import Target

SMALLEST = 1e-6  # share, so that what never occurs has a finite logit


def constant(target: Target, labels: Tensor, known: Tensor) -> Tensor:
    """(C,) the output that fits labels best in which nothing but the target is seen.

    Args:
        labels, known: of the training rows, as `features.Target` says.
    """
    if target.task in ("multilabel", "soft"):
        seen = known if known.ndim == 2 else known[:, None].expand_as(labels)
        shares = (labels * seen).sum(0) / seen.sum(0).clamp(min=1)
        return shares.clamp(SMALLEST, 1 - SMALLEST).logit()
    values = labels[known]
    match target.task:
        case "binary" | "regression":
            mean = values.float().mean() if len(values) else torch.zeros(())
            return (mean.clamp(SMALLEST, 1 - SMALLEST).logit() if target.task == "binary" else mean)[None]
        case "ordinal":  # threshold k asks whether the class is above k
            above = torch.stack([(values > threshold).float().mean() for threshold in range(target.outputs)])
            return above.clamp(SMALLEST, 1 - SMALLEST).logit()
        case _:
            shares = torch.bincount(values, minlength=target.outputs) / max(1, len(values))
            return shares.clamp(min=SMALLEST).log()


def repeated(answer: Tensor, labels: Tensor, target: Target) -> Tensor:
    """The constant answer (C,) for every row, (N, C), of a tokens target (N, L, C)."""
    places = labels.shape[:2] if target.task == "tokens" else labels.shape[:1]
    return answer.expand(*places, len(answer)).clone()
