"""The backend that is always there."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from polymodal import machine
from polymodal.engine.backends import Arrays, Name, Precision
from polymodal.engine.backends.prepared import prepared
from polymodal.export.graphs import Graph


class TorchBackend:
    """On a CPU linear layers are packed by oneDNN; in int8 they are dynamic, with weights of 7 bits.

    A CPU without VNNI adds products of 8 and 8 bits in 16 bits, where they saturate; of 8 and 7 bits they do not.
    """

    name: Name = "torch"

    def __init__(self, graphs: Mapping[str, Graph], precision: Precision, device: torch.device) -> None:
        self.precision, self.device = precision, device
        if device.type == "cpu" and torch.get_num_threads() > machine.threads():
            torch.set_num_threads(machine.threads())  # torch counts the cores, not what the container grants
        with torch.no_grad():
            self._graphs = {name: prepared(graph.to(device), precision) for name, graph in graphs.items()}
        if device.type == "cpu":
            machine.give_back()  # what packing needed for a moment
            machine.keep_large_buffers()

    @torch.inference_mode()
    def run(self, graph: str, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        """As of every backend."""
        module = self._graphs[graph]
        assert isinstance(module, Graph)
        given = (torch.from_numpy(np.ascontiguousarray(arrays[port.name])) for port in module.inputs)
        said = module(*(one.to(self.device) for one in given))
        return {port.name: one.float().cpu().numpy() for port, one in zip(module.outputs, said, strict=True)}
