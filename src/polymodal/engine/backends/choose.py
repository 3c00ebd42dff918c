"""Which backend computes a model, in which precision: as asked for, or the one that is measured to be the fastest here.

What is converted and measured is kept in the cache folder, under the artifact's checksum.
"""

import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from polymodal import machine
from polymodal.data.cache import cache_folder, digest, written_beside
from polymodal.engine.backends import NAMES, PRECISIONS, Backend, Name, Precision
from polymodal.engine.backends.measure import arrays_for, in_turn
from polymodal.engine.progress import progress_bar
from polymodal.errors import ConfigError, DataError
from polymodal.export.graphs import Graph, graphs_of

AskedBackend = Literal["auto", "torch", "openvino", "onnx"]
AskedPrecision = Literal["auto", "float32", "bfloat16", "int8"]

FORMAT = 1  # of what is kept
PACKAGES: Mapping[Name, tuple[str, ...]] = {
    "torch": ("torch",),
    "openvino": ("openvino",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
}
KNOWS: Mapping[Name, tuple[Precision, ...]] = {
    "torch": PRECISIONS,
    "openvino": ("float32", "bfloat16"),
    "onnx": ("float32", "int8"),
}
SMALL = 5_000_000  # weights below which a model answers in milliseconds anyway: measuring would cost more than it gains
SECONDS = 2.0  # of measuring, of each candidate
BATCHES = (1, 8)  # that are measured
LENGTH = 16  # of the texts
FAR = 1e-3  # a candidate whose float32 answers differ by more, of 1, is left out


class Opened(NamedTuple):
    backend: Backend
    notes: tuple[str, ...]  # what is not as it was asked for, and what was left out


def open_backend(
    model: Any,
    preprocess: Any,
    *,
    backend: AskedBackend,
    precision: AskedPrecision,
    device: torch.device,
    checksum: Callable[[], str],
) -> Opened:
    """The backend for a model.

    Args:
        model: a Clip or a Multimodal, in eval mode; with `preprocess`, as of `graphs_of`.
        checksum: names the weights and settings; called only if something is looked up or kept.

    Raises:
        ConfigError: no such backend or precision; the backend is not installed, or does not know the precision.
    """
    if backend not in ("auto", *NAMES):
        raise ConfigError(f'backend: wanted auto, {", ".join(NAMES)}, got "{backend}"')
    known, notes = precision_here(precision, device)
    graphs = graphs_of(model, preprocess)
    kept = Kept(graphs, checksum, device)
    if backend != "auto":
        if precision == "auto" and known not in KNOWS[backend]:
            known = "float32"
        return Opened(kept.open(backend, known), notes)
    weights = sum(weight.numel() for weight in model.parameters())
    names = [name for name in NAMES if not missing(name) and known in KNOWS[name]]
    if device.type != "cpu" or weights < SMALL or len(names) == 1:
        return Opened(kept.open("torch", known), notes)
    name, left_out = kept.fastest(names, known)
    return Opened(kept.open(name, known), (*notes, *left_out))


def precision_here(asked: AskedPrecision, device: torch.device) -> tuple[Precision, tuple[str, ...]]:
    """What is computed in, and a note where that is not what was asked for.

    Raises:
        ConfigError: there is no such precision.
    """
    if asked not in ("auto", *PRECISIONS):
        raise ConfigError(f'precision: wanted auto, {", ".join(PRECISIONS)}, got "{asked}"')
    on_cpu = device.type == "cpu"
    if asked == "auto":
        return ("bfloat16" if on_cpu and machine.knows_bfloat16() else "float32"), ()
    if asked == "bfloat16" and on_cpu and not machine.knows_bfloat16():
        why = f"this CPU has no bfloat16 instructions ({' or '.join(machine.BFLOAT16[:2])})"
        return "float32", (f"precision bfloat16: {why}; float32 is used, which is faster here and exact",)
    if asked == "int8" and not (on_cpu and machine.knows_int8()):
        why = "this CPU has no AVX2" if on_cpu else f"there are no int8 products on {device.type}"
        return "float32", (f"precision int8: {why}; float32 is used",)
    return asked, ()


def missing(name: Name) -> str | None:
    """The first package that a backend needs and that is not installed."""
    return next((package for package in PACKAGES[name] if find_spec(package) is None), None)


class Kept:
    """A model's graphs, and what of them is in the cache folder."""

    def __init__(self, graphs: Mapping[str, Graph], checksum: Callable[[], str], device: torch.device) -> None:
        self.graphs, self.checksum, self.device = graphs, checksum, device

    def open(self, name: Name, precision: Precision) -> Backend:
        """
        Raises:
            ConfigError: it is not installed, does not know the precision, or not the device.
            DataError: the cache folder cannot be written to.
        """
        if package := missing(name):
            raise ConfigError(
                f'backend "{name}" needs the package {package}, which is not installed; pip install "polymodal[{name}]"'
            )
        if precision not in KNOWS[name]:
            others = ", ".join(other for other in NAMES if precision in KNOWS[other])
            raise ConfigError(
                f'backend "{name}" knows {", ".join(KNOWS[name])}, not {precision}; take backend {others}, or '
                "make a smaller artifact with `polymodal compress`"
            )
        if name == "torch":
            from polymodal.engine.backends.torch import TorchBackend

            return TorchBackend(self.graphs, precision, self.device)
        if self.device.type not in (("cpu", "cuda") if name == "onnx" else ("cpu",)):
            raise ConfigError(f'backend "{name}" does not compute on {self.device.type}; take backend torch')
        if name == "openvino":
            from polymodal.engine.backends.openvino import OpenVinoBackend

            return OpenVinoBackend(self._converted("openvino", "float32"), precision)
        from polymodal.engine.backends.onnx import OnnxBackend

        return OnnxBackend(self._converted("onnx", precision), precision, self.device.type)

    @property
    def folder(self) -> Path:
        return cache_folder() / "engines" / self.checksum()[:16]

    def _converted(self, name: Name, precision: Precision) -> dict[str, Path]:
        """The graphs' files in a backend's format, from the cache folder or made anew."""
        folder = self.folder / f"{name}-{precision}-{digest(FORMAT, _versions(name))}"
        if not folder.exists():
            source = self._converted("onnx", "float32") if precision == "int8" else {}
            self._convert(name, folder, source)
        ending = ".onnx" if name == "onnx" else ".xml"
        return {graph: folder / f"{graph}{ending}" for graph in self.graphs}

    def _convert(self, name: Name, folder: Path, float32: Mapping[str, Path]) -> None:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="writing-", ignore_cleanup_errors=True) as part:
                fresh = Path(part) / "done"
                fresh.mkdir()
                with progress_bar(f"converting for {name}", len(self.graphs), shown=True) as advance:
                    for graph, module in self.graphs.items():
                        _write(name, module, fresh / graph, float32.get(graph))
                        advance(1)
                if not folder.exists():  # another process may have been quicker; its files are the same
                    fresh.rename(folder)
        except OSError as error:
            raise DataError(
                f"{folder.parent}: cannot be written to ({error.strerror or error}); make room there, or set "
                "POLYMODAL_CACHE to another folder"
            ) from None

    def fastest(self, names: list[Name], precision: Precision) -> tuple[Name, tuple[str, ...]]:
        """The fastest on this machine, measured once and then remembered; and why others were left out."""
        about = (FORMAT, machine.name(), machine.threads(), precision, [(name, _versions(name)) for name in names])
        file = self.folder / f"fastest-{digest(*about)}.json"
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if found["backend"] in names:
                return found["backend"], tuple(found["left_out"])
        except (OSError, ValueError, LookupError, TypeError):  # not measured yet, or the file is damaged
            pass
        seconds, left_out = self._measured(names, precision)
        best = min(seconds, key=lambda name: seconds[name])
        kept = {"backend": best, "left_out": left_out, "seconds_a_row": seconds, "machine": machine.name()}
        try:
            with written_beside(file) as fresh:
                fresh.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        except DataError as error:
            left_out = (*left_out, f"the choice of {best} is not remembered: {error}")
        return best, left_out

    def _measured(self, names: list[Name], precision: Precision) -> tuple[dict[Name, float], tuple[str, ...]]:
        """Seconds a row, the geometric mean over graphs and batch sizes, of those that answer as torch does."""
        candidates: dict[Name, Backend] = {}
        notes = []
        trial = [(name, arrays_for(graph, size, LENGTH)) for name, graph in self.graphs.items() for size in BATCHES]
        with progress_bar("choosing the fastest backend", len(names), shown=True) as advance:
            for name in names:
                try:
                    candidates[name] = self.open(name, precision)
                    if far := _difference(candidates["torch"], candidates[name], trial):
                        del candidates[name]
                        notes.append(f"backend {name} is left out: its answers differ from torch's by {far:.2g}")
                except Exception as error:  # what cannot be converted has torch; whoever asks for it by name sees all
                    notes.append(f"backend {name} is left out: {str(error).splitlines()[0][:300]}")
                advance(1)
        if len(candidates) == 1:
            return {"torch": 0.0}, tuple(notes)
        logs: dict[Name, list[float]] = {name: [] for name in candidates}
        for graph, arrays in trial:
            runs = {name: _run(one, graph, arrays) for name, one in candidates.items()}
            rows = len(next(iter(arrays.values())))
            for name, times in in_turn(runs, SECONDS * len(runs) / len(trial)).items():
                logs[name].append(math.log(statistics.median(times) / rows))
        return {name: math.exp(statistics.fmean(values)) for name, values in logs.items()}, tuple(notes)


def _run(backend: Backend, graph: str, arrays: Mapping[str, NDArray[np.generic]]) -> Callable[[], object]:
    return lambda: backend.run(graph, arrays)


def _difference(ours: Backend, theirs: Backend, trial: list[tuple[str, dict[str, NDArray[np.generic]]]]) -> float:
    """The largest difference of two backends' answers, of the largest answer; 0 where it does not matter."""
    if theirs.precision != "float32":
        return 0.0
    worst = 0.0
    for graph, arrays in trial:
        said = theirs.run(graph, arrays)
        for name, values in ours.run(graph, arrays).items():
            mine, other = np.asarray(values, np.float64), np.asarray(said[name], np.float64)
            worst = float(np.maximum(worst, np.abs(mine - other).max() / max(1.0, np.abs(mine).max())))
    return worst if not worst <= FAR else 0.0  # not-a-numbers are far too


def _write(name: Name, graph: Graph, file: Path, float32: Path | None) -> None:
    from polymodal.export import write

    if name == "openvino":
        import openvino

        openvino.save_model(write.to_openvino(graph), file.with_suffix(".xml"), compress_to_fp16=False)
    elif float32 is None:
        write.to_onnx(graph, file.with_suffix(".onnx"))
    else:
        from polymodal.engine.backends.onnx import round_to_int8

        round_to_int8(float32, file.with_suffix(".onnx"))


def _versions(name: Name) -> list[str]:
    return [metadata.version(package) for package in PACKAGES[name]]
