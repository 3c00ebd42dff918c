"""Shortcuts and checks that depend on a batch's values, which a traced graph cannot have."""

import torch
from torch import Tensor


def holds(condition: Tensor) -> bool:
    """Whether a condition () is true; False while the model is being exported.

    A graph has no branches: what hangs on this must be a shortcut to the same answer, or a check of the input.
    """
    return not torch.compiler.is_exporting() and bool(condition)
