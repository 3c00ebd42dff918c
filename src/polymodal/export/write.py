"""A graph in the formats of other programs: ONNX, OpenVINO's model, a `torch.export` program."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from polymodal.errors import ConfigError
from polymodal.export.graphs import Axis, Graph, RowsGraph

if TYPE_CHECKING:
    import openvino

Format = Literal["onnx", "openvino", "program"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "program": ".pt2"}
EXTRAS: dict[Format, tuple[str, ...]] = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
OPSET = 23  # of ONNX: the first with attention as one operator


def write(graph: Graph, file: Path, format: Format) -> None:  # noqa: A002
    """Write a graph's file in a format: `file`, and beside it what the format keeps apart.

    Raises:
        ConfigError: the format's extra is not installed.
    """
    match format:
        case "onnx":
            to_onnx(graph, file)
        case "openvino":
            model = to_openvino(graph)
            import openvino

            openvino.save_model(model, file, compress_to_fp16=False)
        case "program":
            with _quiet():
                torch.export.save(to_program(graph), file)


def to_program(graph: Graph) -> ExportedProgram:
    """The graph as torch traces it, with free batch size and lengths."""
    with torch.no_grad(), _quiet(), _loops(graph):
        return torch.export.export(
            graph,
            graph.drawn(),
            dynamic_shapes=_dynamic(graph),
            # What torch cannot prove of strides and lengths is asked when the program runs.
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def to_onnx(graph: Graph, file: Path) -> None:
    """Write an ONNX model; weights beyond 2 GB stand beside it, in `NAME.onnx.data`.

    Raises:
        ConfigError: the extra `onnx` is not installed.
    """
    require("onnx")
    program = to_program(graph)
    with torch.no_grad(), _quiet(), _loops(graph):
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[port.name for port in graph.inputs],
            output_names=[port.name for port in graph.outputs],
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
            verbose=False,
        )
    assert made is not None
    made.save(file)


def to_openvino(graph: Graph) -> "openvino.Model":
    """The graph as a model of OpenVINO, its tensors under their names.

    Raises:
        ConfigError: the extra `openvino` is not installed; or for a model with an LSTM the extra `onnx`.
    """
    require("openvino")
    import openvino
    from openvino.tools.ovc import telemetry_stub, telemetry_utils

    telemetry_utils.tm = telemetry_stub  # or the conversion would tell its makers of itself, over the network
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        if _has_lstm(graph):  # in torch's program they are loops, of which this conversion makes nonsense
            to_onnx(graph, file := Path(folder, "graph.onnx"))
            model = openvino.Core().read_model(file)
        else:
            model = openvino.convert_model(to_program(graph))
    for ports, found in ((graph.inputs, model.inputs), (graph.outputs, model.outputs)):
        for port, one in zip(ports, found, strict=True):
            one.get_tensor().set_names({port.name})
    # Sizes that are fixed, which the conversion forgets, save work.
    model.reshape({port.name: [-1 if isinstance(one, Axis) else one for one in port.shape] for port in graph.inputs})
    return model


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """ONNX's Attention, its mask written out for every query: ONNX Runtime does not broadcast there."""
    from onnxscript import opset23

    op: Any = opset23
    if attn_mask is not None:
        rows, queries = op.Shape(query, start=0, end=1), op.Shape(query, start=2, end=3)
        one = op.Constant(value_ints=[1])
        attn_mask = op.Expand(attn_mask, op.Concat(rows, one, queries, one, axis=0))
    return op.Attention(query, key, value, attn_mask, is_causal=int(is_causal), scale=scale)[0]


def _dynamic(graph: Graph) -> Any:
    dims: dict[Axis, Any] = {}
    shapes = []
    for port in graph.inputs:
        axes = {place: one for place, one in enumerate(port.shape) if isinstance(one, Axis)}
        for axis in axes.values():
            dims.setdefault(axis, Dim(f"n{len(dims)}", min=axis.least, max=axis.most))
        shapes.append({place: dims[axis] for place, axis in axes.items()})
    return {"tensors": tuple(shapes)} if isinstance(graph, RowsGraph) else tuple(shapes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's talk of its own future."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _loops(graph: nn.Module) -> Iterator[None]:
    """LSTMs as loops over any number of steps; by itself torch writes out those that it was traced with."""
    with ExitStack() as stack:
        if _has_lstm(graph):
            from torch.export._patches import register_lstm_while_loop_decomposition

            stack.enter_context(register_lstm_while_loop_decomposition())
        yield


def _has_lstm(graph: nn.Module) -> bool:
    return any(isinstance(module, nn.LSTM) for module in graph.modules())


def require(format: Format) -> None:  # noqa: A002
    """
    Raises:
        ConfigError: a package that the format needs is not installed; it names the extra.
    """
    for name in EXTRAS.get(format, ()):
        try:
            import_module(name)
        except ImportError:
            raise ConfigError(
                f'export: format "{format}" needs the package {name}, which is not installed; '
                f'pip install "polymodal[{format}]"'
            ) from None
