"""Times on a machine that does other things too: what is compared runs in turn, and medians count."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from polymodal.export.graphs import Axis, Graph

Key = TypeVar("Key", bound=Hashable)


def in_turn(runs: Mapping[Key, Callable[[], object]], seconds: float, least: int = 3) -> dict[Key, list[float]]:
    """Seconds of each call; in every round each is called once, so that a busy moment hits them alike.

    A first call of each is not counted: it lays out memory and weights.

    Args:
        seconds: after which no further round begins.
        least: rounds at least.
    """
    for run in runs.values():
        run()
    times: dict[Key, list[float]] = {key: [] for key in runs}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < least or time.perf_counter() < end:
        for key, run in runs.items():
            start = time.perf_counter()
            run()
            times[key].append(time.perf_counter() - start)
        rounds += 1
    return times


def arrays_for(graph: Graph, rows: int, length: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Random inputs of a graph: so many rows, and texts and series of this length where they may be so long."""
    sizes = {
        axis.name: rows if axis.name == "batch" else min(length, axis.most or length)
        for port in graph.inputs
        for axis in port.shape
        if isinstance(axis, Axis)
    }
    drawn = graph.drawn(seed, sizes)
    return {port.name: value.numpy() for port, value in zip(graph.inputs, drawn, strict=True)}
