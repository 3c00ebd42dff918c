"""The smallest graph: what a backend does with it takes no time but its own."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polymodal.export.graphs import BATCH, Graph, Port

WEIGHTS = np.random.default_rng(5).standard_normal((4, 3)).astype(np.float32)


class Small(Graph):
    """values (B, 3) -> unit (B, 4), of max(0, W x)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4, bias=False)
        self.layer.weight = nn.Parameter(torch.from_numpy(WEIGHTS.copy()))
        self.inputs = (Port("values", "float32", (BATCH, 3)),)
        self.outputs = (Port("vectors", "float32", (BATCH, 4)),)

    def forward(self, values: Tensor) -> tuple[Tensor]:
        return (self.layer(values).relu(),)


def values(rows: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    return {"values": np.random.default_rng(seed).standard_normal((rows, 3)).astype(np.float32)}


def expected(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    rows = [[max(0.0, sum(w * x for w, x in zip(weights, row, strict=True))) for weights in WEIGHTS.tolist()]
            for row in arrays["values"].tolist()]  # fmt: skip
    return np.array(rows).reshape(-1, 4)
