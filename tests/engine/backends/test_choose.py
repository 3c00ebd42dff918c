import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal import artifact, machine
from polymodal.data.cache import cache_folder
from polymodal.engine import Engine
from polymodal.engine.backends import Name, Precision, choose
from polymodal.engine.backends.choose import Kept, open_backend, precision_here
from polymodal.errors import ConfigError, DataError
from tests import tiny
from tests.engine.backends.small import Small, expected, values

CPU = torch.device("cpu")


def kept() -> Kept:
    return Kept({"image": Small().eval()}, lambda: "c" * 64, CPU)


def engine(**how: Any) -> Engine:
    return Engine(tiny.clip(), tiny.tokenizer(), tiny.preprocess(), device="cpu", **how)


needs = {name: pytest.mark.skipif(find_spec(name) is None, reason=name) for name in ("openvino", "onnxruntime")}
CASES = [
    ("torch", "float32", 1e-6),
    pytest.param("openvino", "float32", 1e-6, marks=needs["openvino"]),
    pytest.param("onnx", "float32", 1e-6, marks=needs["onnxruntime"]),
    pytest.param("onnx", "int8", 0.1, marks=needs["onnxruntime"]),
]


@pytest.mark.parametrize(("name", "precision", "near"), CASES)
def test_a_backend_answers_as_plain_sums_do_from_many_threads(name: Name, precision: Precision, near: float) -> None:
    backend = kept().open(name, precision)
    assert (backend.name, backend.precision) == (name, precision)

    def ask(turn: int) -> None:
        arrays = values(1 + turn % 5, turn)
        said = backend.run("image", arrays | {"not asked for": np.zeros(3)})
        assert said.keys() == {"vectors"}
        assert said["vectors"].dtype == np.float32
        assert np.abs(np.asarray(said["vectors"], np.float64) - expected(arrays)).max() < near

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(48)))


@needs["onnxruntime"]
def test_what_is_converted_is_kept_and_a_failure_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    write = choose._write
    calls: list[Path] = []

    def full(name: Name, graph: Any, file: Path, float32: Path | None) -> None:
        file.with_suffix(".onnx").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(choose, "_write", full)
    with pytest.raises(DataError, match=r"engines/c{16}: cannot be written to \(No space left on device\); make room"):
        kept().open("onnx", "float32")
    assert list(kept().folder.iterdir()) == []

    def count(name: Name, graph: Any, file: Path, float32: Path | None) -> None:
        calls.append(file)
        write(name, graph, file, float32)

    monkeypatch.setattr(choose, "_write", count)
    kept().open("onnx", "float32")
    kept().open("onnx", "float32")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"backend": "tensorrt"}, 'backend: wanted auto, torch, openvino, onnx, got "tensorrt"'),
        ({"precision": "float16"}, 'precision: wanted auto, float32, bfloat16, int8, got "float16"'),
        ({"backend": "openvino", "precision": "int8"}, 'backend "openvino" knows float32, bfloat16, not int8; take'),
    ],
)
def test_what_there_is_not_is_refused(how: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "find_spec", lambda package: object())
    monkeypatch.setattr(machine, "knows_int8", lambda: True)
    with pytest.raises(ConfigError, match=message):
        engine(**how)


def test_a_backend_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        choose, "find_spec", lambda package: None if package in ("openvino", "onnxruntime") else object()
    )
    for name, package in (("openvino", "openvino"), ("onnx", "onnxruntime")):
        message = (
            f'backend "{name}" needs the package {package}, which is not installed; pip install "polymodal\\[{name}\\]"'
        )
        with pytest.raises(ConfigError, match=message):
            engine(backend=name)


def test_without_the_instructions_float32_is_used_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "knows_bfloat16", lambda: False)
    monkeypatch.setattr(machine, "knows_int8", lambda: False)
    assert engine(precision="auto").precision == "float32"
    assert engine(precision="auto").notes == ()
    half = engine(precision="bfloat16")
    assert half.precision == "float32"
    assert "this CPU has no bfloat16 instructions (avx512_bf16 or amx_bf16); float32 is used" in half.notes[0]
    whole = engine(precision="int8")
    assert (whole.precision, whole.notes) == ("float32", ("precision int8: this CPU has no AVX2; float32 is used",))


@needs["onnxruntime"]
def test_a_named_backend_without_bfloat16_has_float32_unless_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "knows_bfloat16", lambda: True)
    assert engine(backend="onnx").precision == "float32"
    with pytest.raises(ConfigError, match="knows float32, int8, not bfloat16"):
        engine(backend="onnx", precision="bfloat16")


def test_with_the_instructions_bfloat16_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "knows_bfloat16", lambda: True)
    assert precision_here("auto", CPU) == ("bfloat16", ())
    assert precision_here("auto", torch.device("meta")) == ("float32", ())
    found = engine()
    assert (found.precision, found.notes) == ("bfloat16", ())
    vectors = found.embed(texts=["a dog", "two cats"])
    assert ((vectors * engine(precision="float32").embed(texts=["a dog", "two cats"])).sum(1) > 0.999).all()


class Fake:
    """A backend that takes its time, on a clock of its own."""

    def __init__(self, name: Name, seconds: float, clock: list[float], off: float = 0.0) -> None:
        self.name, self.precision, self.seconds, self.clock, self.off = name, "float32", seconds, clock, off

    def run(self, graph: str, arrays: Any) -> dict[str, Any]:
        self.clock[0] += self.seconds
        return {"vectors": expected(arrays) + self.off}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Name, tuple[str, ...]]]:
    """The choice between three backends that take so many seconds; each call opens them anew."""

    def choice(fakes: dict[Name, Any], opened: list[str]) -> tuple[Name, tuple[str, ...]]:
        clock = [0.0]
        monkeypatch.setattr("polymodal.engine.backends.measure.time.perf_counter", lambda: clock[0])

        def give(self: Kept, name: Name, precision: Precision) -> Any:
            opened.append(name)
            if isinstance(fakes[name], Exception):
                raise fakes[name]
            seconds, off = fakes[name]
            return Fake(name, seconds, clock, off)

        monkeypatch.setattr(Kept, "open", give)
        return kept().fastest(list(fakes), "float32")

    return choice


def test_auto_takes_the_fastest_and_remembers_it(measured: Callable[..., Any]) -> None:
    opened: list[str] = []
    fakes = {"torch": (0.3, 0.0), "openvino": (0.1, 1e-5), "onnx": (0.2, 0.0)}
    assert measured(fakes, opened) == ("openvino", ())
    assert opened == ["torch", "openvino", "onnx"]
    slower = {**fakes, "openvino": (9.0, 0.0)}
    assert measured(slower, opened) == ("openvino", ())  # as was measured
    assert len(opened) == 3
    (file,) = (cache_folder() / "engines" / ("c" * 16)).glob("fastest-*.json")
    assert json.loads(file.read_text())["seconds_a_row"]["openvino"] < 0.1
    file.write_text("{")  # damaged: measured again
    assert measured(slower, opened) == ("onnx", ())


def test_auto_leaves_out_what_fails_or_answers_otherwise_and_says_why(measured: Callable[..., Any]) -> None:
    fakes = {"torch": (0.3, 0.0), "openvino": (0.1, 0.5), "onnx": RuntimeError("no kernel for X\nmore")}
    name, notes = measured(fakes, [])
    assert name == "torch"
    assert notes[0].startswith("backend openvino is left out: its answers differ from torch's by 0.")
    assert notes[1] == "backend onnx is left out: no kernel for X"
    nan = {"torch": (0.3, 0.0), "openvino": (0.1, float("nan"))}
    assert measured(nan, [])[0] == "torch"


def test_a_small_model_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kept, "fastest", lambda *given: pytest.fail("measured"))
    assert engine(backend="auto").backend.name == "torch"


def test_the_choice_reaches_the_backend_for_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fastest(self: Kept, names: list[Name], precision: Precision) -> tuple[Name, tuple[str, ...]]:
        asked.append((names[0], precision, self.checksum()))
        return "torch", ("onnx is left out",)

    monkeypatch.setattr(choose, "SMALL", 0)
    monkeypatch.setattr(choose, "find_spec", lambda package: object())
    monkeypatch.setattr(Kept, "fastest", fastest)
    how: Any = {"backend": "auto", "precision": "float32", "device": CPU, "checksum": lambda: "sum"}
    found = open_backend(tiny.clip(), tiny.preprocess(), **how)
    assert (found.backend.name, found.notes, asked) == ("torch", ("onnx is left out",), [("torch", "float32", "sum")])


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("openvino", marks=needs["openvino"]),
                                  pytest.param("onnx", marks=needs["onnxruntime"])])  # fmt: skip
def test_an_artifact_answers_alike_on_every_backend(name: Name, tmp_path: Path) -> None:
    how: Any = {"model": tiny.clip(), "tokenizer": tiny.tokenizer(), "preprocess": tiny.preprocess()}
    artifact.save(tmp_path / "a", **how)
    ours, theirs = pm.load(tmp_path / "a"), pm.load(tmp_path / "a", backend=name)
    assert (ours.backend.name, theirs.backend.name) == ("torch", name)
    pictures = [np.random.default_rng(seed).integers(256, size=(30, 20, 3), dtype=np.uint8) for seed in range(3)]
    texts = [text for text in tiny.CAPTIONS if text]
    np.testing.assert_allclose(theirs.embed(images=pictures), ours.embed(images=pictures), atol=1e-5)
    np.testing.assert_allclose(theirs.embed(texts=texts, batch_size=3), ours.embed(texts=texts), atol=1e-5)
