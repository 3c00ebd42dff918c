import math

import pytest
import torch

from polymodal.layers.mlp import Activation, activation


@pytest.mark.parametrize("x", [-3.0, -0.4, 0.0, 1.3])
def test_activations_are_their_formulas(x: float) -> None:
    formulas: dict[Activation, float] = {
        "quick_gelu": x / (1 + math.exp(-1.702 * x)),
        "gelu": x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
        "gelu_tanh": 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "relu": max(x, 0.0),
    }
    for name, expected in formulas.items():
        assert activation(name)(torch.tensor(x)).item() == pytest.approx(expected, abs=1e-6)
