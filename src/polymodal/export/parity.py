"""How far an exported graph is from the model it was made of, on rows of a table or on drawn inputs.

Shapes: B rows of a batch; N rows in all; C classes; D width of vectors.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from polymodal.artifact import Artifact
from polymodal.data.decode import read_pixels
from polymodal.data.feature_rows import FeatureRows
from polymodal.data.manifest import Manifest
from polymodal.errors import ArtifactError, DataError
from polymodal.export.graphs import Arrays, Axis, Graph, RowsGraph, arrays_of
from polymodal.export.write import Format
from polymodal.layers.compressed import Int8Linear
from polymodal.metrics.supervised import decide, probabilities
from polymodal.models.clip import Clip
from polymodal.preprocess import Preprocess
from polymodal.types import Text

# Largest difference in float32, as a share of 1 or, if that is more, of the output's greatest value. Programs add in
# other orders, which in deep models comes to some 1e-6; another activation or a lost mask to 1e-3 and more.
BOUND = 1e-4
ROWS = 256  # compared at most
ROWS_AT_ONCE = 16
DRAWN = 8  # rows of drawn inputs, for each of two lengths
Runner = Callable[[Arrays], Mapping[str, NDArray[Any]]]


@dataclass
class Compared:
    """One output of a graph, the model's and the export's, batch by batch."""

    wanted: list[NDArray[Any]] = field(default_factory=list)
    got: list[NDArray[Any]] = field(default_factory=list)

    def differences(self) -> dict[str, float]:
        """max and mean of |export - model|, and the model's greatest value."""
        apart = [np.abs(got - wanted).ravel() for got, wanted in zip(self.got, self.wanted, strict=True)]
        together = np.concatenate(apart).astype(np.float64)
        # Not `max`: a value that is not a number must show.
        largest = float(np.max([np.abs(one).max() for one in self.wanted]))
        return {"max": float(np.max(together)), "mean": float(together.mean()), "largest": largest}

    def neighbors(self) -> float:
        """The share of rows (N, D) whose nearest other row is the same one, or one as near."""
        wanted, got = np.concatenate(self.wanted), np.concatenate(self.got)
        cosines, others = wanted @ wanted.T, got @ got.T
        for one in (cosines, others):
            np.fill_diagonal(one, -np.inf)
        chosen = np.take_along_axis(cosines, others.argmax(1)[:, None], 1)[:, 0]
        return float((chosen >= cosines.max(1) - 1e-6).mean())


def compare(found: Artifact, graphs: Mapping[str, Graph], runners: Mapping[str, Runner], data: Path | None) -> Any:
    """The report, plain values for export.json.

    Args:
        data: a table with the model's columns; None: inputs are drawn.

    Raises:
        ArtifactError: an output is farther from the model's than `BOUND`.
        DataError: the table cannot be read, or no row of it can be used.
    """
    outputs: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for name, graph in graphs.items():
        parts = {port.name: Compared() for port in graph.outputs}
        batches = _drawn(graph) if data is None else _read(found, name, data)
        for arrays in batches:
            wanted, got = said(found, graph, arrays), runners[name](arrays)
            counts[name] = counts.get(name, 0) + len(next(iter(arrays.values())))
            for port, part in parts.items():
                part.wanted.append(wanted[port])
                part.got.append(np.asarray(got[port]))
        if not counts.get(name):
            raise DataError(f'{data}: no row can be used to compare graph "{name}"; `polymodal check` says why')
        outputs |= {f"{name}.{port}": _measured(graph, port, part) for port, part in parts.items()}
    bound = None if _rounds(found.model) else BOUND
    report = {"source": "drawn inputs" if data is None else data.name, "rows": counts, "bound": bound} | {
        "outputs": outputs
    }
    _refuse(outputs, bound)
    return report


def _refuse(outputs: Mapping[str, Any], bound: float | None) -> None:
    for name, one in outputs.items():
        limit = np.inf if bound is None else bound * max(1.0, one["largest"])
        if not one["max"] <= limit:  # so that not-a-number fails too
            raise ArtifactError(
                f'export: output "{name}" differs from the model\'s by {one["max"]:.2g}, wanted at most {limit:.2g}; '
                "nothing was written; try another --format, and report this with the model's config.json"
            )


def _measured(graph: Graph, port: str, part: Compared) -> dict[str, float]:
    found = part.differences()
    kind, _, target = port.partition(".")
    if port in ("vectors", "state"):
        if sum(map(len, part.wanted)) > 1:
            found["neighbors"] = part.neighbors()
    elif kind == "logits" and isinstance(graph, RowsGraph) and graph.features.targets[target].task != "regression":
        task = graph.features.targets[target].task
        same = [decide(task, a) == decide(task, b) for a, b in zip(part.wanted, part.got, strict=True)]
        found["labels"] = float(np.concatenate([one.ravel() for one in same]).mean())
    return found


def _rounds(model: nn.Module) -> bool:
    """Whether the model rounds its activations, so that the least difference may become a whole step."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


@torch.inference_mode()
def said(found: Artifact, graph: Graph, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """What the model itself, not its graph, says of a graph's inputs."""
    given = [torch.from_numpy(np.ascontiguousarray(arrays[port.name])) for port in graph.inputs]
    model, preprocess = found.model, found.preprocess
    if isinstance(model, Clip):
        assert isinstance(preprocess, Preprocess)
        if len(given) == 1:
            return {"vectors": model.embed_image(preprocess.image.normalize(given[0])).numpy()}
        return {"vectors": model.embed_text(Text(given[0], given[1])).numpy()}
    assert isinstance(graph, RowsGraph)
    inputs, present = graph.together(given)
    out = model(graph.features.normalize(inputs), present)
    wanted: dict[str, NDArray[Any]] = {"state": out.fused.pooled.numpy()}
    for name, target in graph.features.targets.items():
        logits = out.predictions[name]
        wanted[f"logits.{name}"] = logits.numpy()
        if target.task == "regression":
            wanted[f"answer.{name}"] = (logits[:, 0] * target.std + target.mean).numpy()
        else:
            wanted[f"answer.{name}"] = probabilities(target.task, logits / target.temperature)
    return wanted


def _drawn(graph: Graph) -> Iterator[Arrays]:
    """Batches of random inputs of two lengths; of odd rows a half is masked, and the last has its first input only."""
    axes = {one for port in graph.inputs for one in port.shape if isinstance(one, Axis)}
    halves = {axis.name: max(axis.least, (axis.tried + 1) // 2) for axis in axes}
    for seed, sizes in enumerate(({}, halves)):
        values = graph.drawn(seed, sizes | {"batch": DRAWN})
        arrays = {port.name: one.numpy() for port, one in zip(graph.inputs, values, strict=True)}
        for one in arrays.values():
            if one.dtype == np.bool_ and one.ndim == 2:
                one[1::2, (one.shape[1] + 1) // 2 :] = False
        for name in [name for name in arrays if name.startswith("present.")][1:]:
            arrays[name][-1] = False
        yield arrays


def _read(found: Artifact, name: str, data: Path) -> Iterator[Arrays]:
    """Batches of a table's first rows."""
    manifest = Manifest.read(data)
    if isinstance(found.preprocess, Preprocess):
        yield from _pictures(found, manifest) if name == "image" else _texts(found, manifest)
        return
    features = found.preprocess.model_copy(update={"targets": {}})
    rows = FeatureRows(manifest, features, found.tokenizer)
    count = min(len(rows), ROWS)
    for start in range(0, count, ROWS_AT_ONCE):
        batch = rows.batch(np.arange(start, min(start + ROWS_AT_ONCE, count)))
        yield arrays_of(batch.inputs, batch.present)


def _pictures(found: Artifact, manifest: Manifest) -> Iterator[Arrays]:
    assert isinstance(found.preprocess, Preprocess)
    pixels = []
    for row in range(min(len(manifest), ROWS) if manifest.image else 0):
        try:
            pixels.append(read_pixels(manifest.image_reference(row), manifest.root, found.preprocess.image))
        except DataError:  # `check` tells of these; here a few rows less make no difference
            continue
    for start in range(0, len(pixels), ROWS_AT_ONCE):
        yield {"pixels": np.stack(pixels[start : start + ROWS_AT_ONCE])}


def _texts(found: Artifact, manifest: Manifest) -> Iterator[Arrays]:
    assert isinstance(found.preprocess, Preprocess)
    captions = [one for row in range(min(len(manifest), ROWS)) for one in manifest.captions(row)[:1]]
    if captions and found.tokenizer is None:
        raise ArtifactError(f'"{found.folder}" has no tokenizer: its texts cannot be compared; leave --data out')
    for start in range(0, len(captions), ROWS_AT_ONCE):
        assert found.tokenizer is not None
        text = found.tokenizer(captions[start : start + ROWS_AT_ONCE], found.preprocess.text)
        yield {"ids": text.ids.numpy(), "mask": text.mask.numpy()}


# ---------------------------------------------------------------------------------------------------------------------
# Runtimes


def runner(format: Format, file: Path, graph: Graph) -> Runner:  # noqa: A002
    """What runs an exported file, in float32, whatever else the machine would rather compute in."""
    match format:
        case "onnx":
            return _onnx(file)
        case "openvino":
            return _openvino(file)
        case "program":
            return _program(file, graph)


def _onnx(file: Path) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    outputs = [port.name for port in session.get_outputs()]
    inputs = [port.name for port in session.get_inputs()]
    return lambda arrays: dict(zip(outputs, session.run(outputs, {name: arrays[name] for name in inputs}), strict=True))


def _openvino(file: Path) -> Runner:
    import openvino

    model = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    inputs = [port.any_name for port in model.inputs]

    def run(arrays: Arrays) -> Mapping[str, NDArray[Any]]:
        result = model({name: arrays[name] for name in inputs})
        return {port.any_name: result[port] for port in model.outputs}

    return run


def _program(file: Path, graph: Graph) -> Runner:
    module = torch.export.load(file).module()

    @torch.inference_mode()
    def run(arrays: Arrays) -> Mapping[str, NDArray[Any]]:
        values = module(*(torch.from_numpy(np.ascontiguousarray(arrays[port.name])) for port in graph.inputs))
        return {port.name: one.numpy() for port, one in zip(graph.outputs, values, strict=True)}

    return run
