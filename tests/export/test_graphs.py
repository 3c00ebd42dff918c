"""Every family of models: what ONNX Runtime says is what torch says, for any batch size and length."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polymodal.export.graphs import Graph, graphs_of
from polymodal.export.write import to_onnx
from tests.export import small

ROWS: dict[str, Any] = {
    **{f"encoder {name}": lambda config=config: small.rows({"given": config}) for name, config in
       {**small.encoders.CONFIGS, **small.towers.TOWERS}.items()},
    **{f"fusion {name}": lambda name=name: small.with_fusion(name) for name in small.fusions.CONFIGS},
    "words": small.words,
}  # fmt: skip
CLIPS: dict[str, Any] = {name: lambda config=config: small.clip(config) for name, config in small.towers.CLIPS.items()}


def agree(graph: Graph, folder: Path) -> None:
    import onnxruntime

    to_onnx(graph, folder / "graph.onnx")
    session = onnxruntime.InferenceSession(folder / "graph.onnx")
    names = [port.name for port in graph.outputs]
    assert [port.name for port in session.get_outputs()] == names
    assert [port.name for port in session.get_inputs()] == [port.name for port in graph.inputs]
    for sizes in small.sizes(graph):
        given = small.inputs(graph, sizes)
        wanted, got = graph.run(given), dict(zip(names, session.run(None, given), strict=True))
        for name in names:
            assert np.abs(got[name] - wanted[name]).max() <= 1e-5 * max(1, np.abs(wanted[name]).max()), (name, sizes)


def test_a_text_tower_is_the_same_in_onnx_runtime(tmp_path: Path) -> None:
    model = small.tiny.clip(text=small.tiny.bert_config(layers=1))
    agree(graphs_of(model, small.tiny.preprocess())["text"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ROWS, *CLIPS])
def test_onnx_runtime_says_what_torch_says(name: str, tmp_path: Path) -> None:
    model, preprocess = (ROWS | CLIPS)[name]()
    for graph in graphs_of(model, preprocess).values():
        agree(graph, tmp_path)
