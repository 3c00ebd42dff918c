"""OpenVINO: on Intel's and AMD's CPUs mostly the fastest in float32 and bfloat16 (extra `openvino`)."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal import machine
from polymodal.engine.backends import Arrays, Name, Precision

ENDING = ".xml"
_HINTS: Mapping[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoBackend:
    """Weights stay memory-mapped in the files where they need not be laid out anew."""

    name: Name = "openvino"

    def __init__(self, files: Mapping[str, Path], precision: Precision) -> None:
        """Args: files: the model of each graph, .xml with .bin beside it, in float32."""
        import openvino

        self.precision = precision
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": machine.threads(),
            "PERFORMANCE_HINT": "LATENCY",  # one request at a time has all threads, whatever its batch
        }
        core = openvino.Core()
        self._models = {name: core.compile_model(file, "CPU", settings) for name, file in files.items()}
        # A request is for one thread at a time, and keeps the memory of its last batch; idle ones wait here.
        self._idle: dict[str, deque[Any]] = {name: deque() for name in files}

    def run(self, graph: str, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        """As of every backend."""
        model, idle = self._models[graph], self._idle[graph]
        try:
            request = idle.pop()
        except IndexError:
            request = model.create_infer_request()
        try:
            given = {port: np.ascontiguousarray(arrays[port.get_any_name()]) for port in model.inputs}
            said = request.infer(given, share_inputs=True)
            return {port.get_any_name(): np.array(said[port]) for port in model.outputs}
        finally:
            idle.append(request)
