"""What computes a model: torch, OpenVINO or ONNX Runtime, each behind one small interface.

A backend runs a model's graphs by name (`export/graphs.py` says which there are, and what goes in and comes out).
"""

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from polymodal.export.graphs import Arrays

Name = Literal["torch", "openvino", "onnx"]
Precision = Literal["float32", "bfloat16", "int8"]
NAMES: tuple[Name, ...] = ("torch", "openvino", "onnx")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")


class Backend(Protocol):
    """Safe to use from several threads at once."""

    name: Name
    precision: Precision  # of the products inside; what comes out is float32 always

    def run(self, graph: str, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        """What a graph says of a batch, by the output's name; `arrays` may hold more than the graph reads."""
        ...


__all__ = ["NAMES", "PRECISIONS", "Arrays", "Backend", "Name", "Precision"]
