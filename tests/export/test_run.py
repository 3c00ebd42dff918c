"""The exported folder: whole and proved, or not there at all."""

import errno
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polymodal as pm
from polymodal import artifact
from polymodal.errors import ArtifactError, ConfigError
from polymodal.export import run as export_run
from polymodal.export.graphs import Arrays, Graph
from polymodal.export.run import export, is_export
from tests import tiny
from tests.engine import tables


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny.clip(image=tiny.vit_config(layers=1), text=tiny.text_config(layers=1))
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    return artifact.save(folder, model=model, tokenizer=tiny.tokenizer(), preprocess=tiny.preprocess())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one word, which are run by the graphs themselves."""
    monkeypatch.setattr(export_run, "write", lambda graph, file, kind: file.write_text("graph"))
    monkeypatch.setattr(export_run, "runner", lambda kind, file, graph: graph.run)


def left_over(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


@pytest.mark.slow
def test_an_export_is_proved_and_says_what_it_is(saved: Path, tmp_path: Path) -> None:
    found = export(saved, tmp_path / "out", format="onnx")
    about = json.loads((tmp_path / "out" / "export.json").read_text("utf-8"))
    assert about == found.about
    assert is_export(tmp_path / "out")
    assert about["artifact"]["checksum"] == artifact.load(saved).checksum
    assert about["graphs"]["text"]["inputs"] == [
        {"name": name, "dtype": dtype, "shape": ["batch", "length"], "lengths": {"length": [1, 12]}}
        for name, dtype in (("ids", "int64"), ("mask", "bool"))
    ]
    for name, checksum in about["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == checksum
    assert {*about["files"], "export.json"} == set(left_over(tmp_path / "out"))
    assert about["parity"]["source"] == "drawn inputs"
    for name in ("image.vectors", "text.vectors"):
        assert about["parity"]["outputs"][name]["max"] <= 1e-5
        assert about["parity"]["outputs"][name]["neighbors"] == 1
    assert left_over(tmp_path) == ["out"]


@pytest.mark.usefixtures("quick")
def test_real_rows_are_compared_where_there_are_some(saved: Path, tmp_path: Path) -> None:
    table = tables.write(tmp_path)
    parity = pm.export(saved, tmp_path / "out", data=table).about["parity"]
    assert parity["source"] == table.name
    assert parity["rows"] == {"image": 6, "text": 6}


@pytest.mark.usefixtures("quick")
def test_an_export_is_replaced_and_nothing_else_is(saved: Path, tmp_path: Path) -> None:
    export(saved, tmp_path / "out")
    (tmp_path / "out" / "old").write_text("")
    export(saved, tmp_path / "out")
    assert "old" not in left_over(tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(ArtifactError, match='mine" exists and is not an export: it is not overwritten'):
        export(saved, tmp_path / "mine")
    assert left_over(tmp_path) == ["mine", "out"]


@pytest.mark.usefixtures("quick")
def test_a_full_disk_leaves_nothing(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(graph: Graph, file: Path, format: str) -> None:  # noqa: A002
        file.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_run, "write", full)
    with pytest.raises(ArtifactError, match=r"out: cannot be written \(No space left on device\); make room there"):
        export(saved, tmp_path / "out")
    assert left_over(tmp_path) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("wrong", [1e-3, np.nan])
def test_an_export_that_says_something_else_is_refused(
    wrong: float, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(format: str, file: Path, graph: Graph) -> Any:  # noqa: A002
        def run(arrays: Arrays) -> Mapping[str, Any]:
            said = dict(graph.run(arrays))
            said["vectors"] = said["vectors"].copy()
            said["vectors"][0, 0] += wrong
            return said

        return run

    monkeypatch.setattr(export_run, "runner", off)
    with pytest.raises(ArtifactError, match=r"image.vectors\" differs from the model's by .* at most 0.0001"):
        export(saved, tmp_path / "out")
    assert left_over(tmp_path) == []


def test_a_format_that_is_not_there_is_named_with_its_extra(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match='one of onnx, openvino, program, got "onxx"; did you mean "onnx"'):
        export(saved, tmp_path / "out", format="onxx")  # type: ignore[arg-type]
    for extra, package in (("onnx", "onnxruntime"), ("openvino", "openvino")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ConfigError, match=rf'package {package}, .*pip install "polymodal\[{extra}\]"'):
            export(saved, tmp_path / "out", format=extra)  # type: ignore[arg-type]
    assert left_over(tmp_path) == []
