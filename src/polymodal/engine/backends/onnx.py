"""ONNX Runtime (extra `onnx`), on CPU and, with its GPU build, on CUDA."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polymodal import machine
from polymodal.engine.backends import Arrays, Name, Precision

ENDING = ".onnx"


class OnnxBackend:
    name: Name = "onnx"

    def __init__(self, files: Mapping[str, Path], precision: Precision, device: str = "cpu") -> None:
        """
        Args:
            files: the model of each graph, in this precision.
            device: cpu or cuda.
        """
        import onnxruntime

        self.precision = precision
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = machine.threads()
        options.log_severity_level = 3  # errors
        providers = ["CUDAExecutionProvider"] if device == "cuda" else []
        self._sessions = {
            name: onnxruntime.InferenceSession(file, options, [*providers, "CPUExecutionProvider"])
            for name, file in files.items()
        }

    def run(self, graph: str, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        """As of every backend."""
        session = self._sessions[graph]
        names = [port.name for port in session.get_outputs()]
        given = {port.name: np.ascontiguousarray(arrays[port.name]) for port in session.get_inputs()}
        return dict(zip(names, session.run(names, given), strict=True))


def round_to_int8(file: Path, out: Path) -> None:
    """The model with the weights of its products in 7 bits, by output channel, and activations rounded as they come.

    Of 7 bits, because a CPU without VNNI adds products in 16 bits, where those of 8 bits saturate.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a preparation that helps models of pictures in static int8
    try:
        quantize_dynamic(
            file, out, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True,
            op_types_to_quantize=["MatMul", "Gemm"], extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip
    finally:
        logging.disable(before)
