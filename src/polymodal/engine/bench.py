"""What each backend and precision gives on this machine: time, and how near its answers are to float32 torch.

Shapes: N rows; D width of vectors; C outputs of a target.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymodal import machine
from polymodal.data.manifest import Manifest
from polymodal.engine.backends import NAMES, Arrays, Backend, Name, Precision
from polymodal.engine.backends.choose import KNOWS, LENGTH, open_backend, precision_here
from polymodal.engine.backends.measure import arrays_for, in_turn
from polymodal.engine.engine import Engine
from polymodal.engine.pictures import decode
from polymodal.engine.predict import Predictor
from polymodal.engine.progress import progress_bar
from polymodal.engine.sources import load
from polymodal.errors import ConfigError, DataError, PolymodalError
from polymodal.export.graphs import arrays_of, graphs_of

BATCHES = (1, 8, 32)
ROWS = 256  # of the table, that answers are compared on
REFERENCE: tuple[Name, Precision] = ("torch", "float32")
Column = tuple[Name, Precision]
Values = dict[str, NDArray[np.generic]]


class Time(NamedTuple):
    median: float  # seconds of a batch
    low: float  # first and third quartile
    high: float


class Agreement(NamedTuple):
    """How near the answers on one graph's rows are to the reference's."""

    mean: float  # cosine of vectors, or of a row's probabilities; of values 1 - |difference| / their spread
    least: float
    same: float  # share of rows with the same nearest neighbour (vectors) or the same label


@dataclass(frozen=True)
class Bench:
    machine: str
    threads: int
    rows: str  # what was compared on
    times: dict[str, dict[Column, dict[int, Time]]]  # by graph, backend and precision, batch size
    agreements: dict[str, dict[Column, Agreement]]
    left_out: tuple[str, ...]

    @property
    def noise(self) -> float:
        """Median of (third - first quartile) / median over all that was timed: nearer results are equal."""
        all_times = [one for columns in self.times.values() for sizes in columns.values() for one in sizes.values()]
        return statistics.median((one.high - one.low) / one.median for one in all_times)

    def to_dict(self) -> dict[str, Any]:
        results = [
            {
                "graph": graph, "backend": name, "precision": precision, "latency_ms": 1000 * sizes[min(sizes)].median,
                "rows_a_second": {size: size / time.median for size, time in sizes.items()},
                "quartiles_ms": {size: [1000 * time.low, 1000 * time.high] for size, time in sizes.items()},
                "agreement": self.agreements[graph][name, precision]._asdict(),
            }
            for graph, columns in self.times.items() for (name, precision), sizes in columns.items()
        ]  # fmt: skip
        about = {"machine": self.machine, "threads": self.threads, "rows": self.rows, "noise": self.noise}
        return about | {"results": results, "left_out": list(self.left_out)}


def bench(
    source: str | Path,
    data: str | Path | None = None,
    *,
    backends: Sequence[str] = NAMES,
    batches: Sequence[int] = BATCHES,
    seconds: float = 1.0,
    progress: bool = False,
) -> Bench:
    """Time every backend in every precision that this machine has, in turn, and compare their answers.

    Args:
        source: as of `load`.
        data: a table whose first 256 rows are answered; None: random inputs, which show times but not what a precision
            costs in practice.
        seconds: of measuring, for each backend, precision, graph and batch size.

    Raises:
        ConfigError: no such backend; or none of those asked for can be used.
        ArtifactError, DataError: the artifact or the table cannot be read.
    """
    if unknown := [name for name in backends if name not in NAMES]:
        raise ConfigError(f'bench: no backend is called "{unknown[0]}"; there are {", ".join(NAMES)}')
    if not batches or min(batches) < 1:
        raise ConfigError(f"bench: wanted batch sizes of at least 1, got {list(batches)}")
    engine: Engine | Predictor = load(source, device="cpu", backend="torch", precision="float32")
    given = _inputs(engine, data)
    opened, left_out = _open(engine, backends, progress)
    reference = opened.get(REFERENCE, engine.backend)
    times: dict[str, dict[Column, dict[int, Time]]] = {}
    agreements: dict[str, dict[Column, Agreement]] = {}
    with progress_bar("measuring", len(given) * len(batches), shown=progress) as advance:
        for graph, arrays in given.items():
            said = _said(reference, graph, arrays)
            agreements[graph] = {key: _agreement(said, _said(one, graph, arrays)) for key, one in opened.items()}
            times[graph] = {key: {} for key in opened}
            for size in batches:
                batch = _rows(arrays, np.arange(size) % len(next(iter(arrays.values()))))
                runs = {key: partial(one.run, graph, batch) for key, one in opened.items()}
                for key, found in in_turn(runs, seconds * len(runs)).items():
                    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
                    times[graph][key][size] = Time(middle, low, high)
                advance(1)
    rows = f"{ROWS} rows at most of {data}" if data is not None else "random inputs: what answers differ in is a guess"
    return Bench(machine.name(), machine.threads(), rows, times, agreements, left_out)


def _open(
    engine: Engine | Predictor, backends: Sequence[str], progress: bool
) -> tuple[dict[Column, Backend], tuple[str, ...]]:
    preprocess = engine.preprocess if isinstance(engine, Engine) else engine.features
    opened: dict[Column, Backend] = {}
    left_out: list[str] = []
    pairs = [(name, precision) for name in NAMES if name in backends for precision in KNOWS[name]]
    with progress_bar("opening backends", len(pairs), shown=progress) as advance:
        for name, precision in pairs:
            there, notes = precision_here(precision, engine.device)
            try:
                if there != precision:
                    left_out.append(f"{name} {notes[0]}")
                elif (name, precision) == REFERENCE:
                    opened[name, precision] = engine.backend
                else:
                    how: Any = {"backend": name, "precision": precision, "device": engine.device}
                    checksum = partial(str, engine.checksum)
                    opened[name, precision] = open_backend(engine.model, preprocess, **how, checksum=checksum).backend
            except PolymodalError as error:
                left_out.append(str(error))
            except Exception as error:  # a conversion by another library: the others can still be measured
                left_out.append(f"{name} {precision}: {str(error).splitlines()[0][:300]}")
            advance(1)
    if not opened:
        raise ConfigError(f"bench: none of {', '.join(backends)} can be used here: {'; '.join(left_out)}")
    return opened, tuple(left_out)


# ---------------------------------------------------------------------------------------------------------------------
# What goes in


def _inputs(engine: Engine | Predictor, data: str | Path | None) -> dict[str, Values]:
    """Of each graph the arrays of some rows."""
    if isinstance(engine, Predictor):
        if data is None:
            return {"rows": arrays_for(graphs_of(engine.model, engine.features)["rows"], max(BATCHES), LENGTH)}
        rows = engine.rows(data)
        batch = rows.batch(np.arange(min(ROWS, len(rows))))
        return {"rows": arrays_of(batch.inputs, batch.present)}
    if data is None:
        graphs = graphs_of(engine.model, engine.preprocess).items()
        drawn = {name: arrays_for(graph, max(BATCHES), LENGTH) for name, graph in graphs}
        return {name: arrays for name, arrays in drawn.items() if name == "image" or engine.tokenizer is not None}
    return _of_table(engine, Manifest.read(data))


def _of_table(engine: Engine, manifest: Manifest) -> dict[str, Values]:
    found: dict[str, Values] = {}
    rows = range(min(ROWS, len(manifest)))
    if manifest.image is not None:
        pixels = []
        for row in rows:
            try:
                pixels.append(decode(manifest.image_reference(row), engine.preprocess.image, manifest.root))
            except DataError:  # `polymodal check` lists them; here only times and likeness count
                continue
        if pixels:
            found["image"] = {"pixels": np.stack(pixels)}
    if manifest.text and engine.tokenizer is not None:
        texts = list(dict.fromkeys(text for row in rows for text in manifest.captions(row) if text.strip()))[:ROWS]
        if texts:
            text = engine.tokenizer(texts, engine.preprocess.text)
            found["text"] = {"ids": text.ids.numpy(), "mask": text.mask.numpy()}
    if not found:
        raise DataError(f"{manifest.source}: none of the first {ROWS} rows has a picture or a text that can be used")
    return found


def _rows(arrays: Arrays, rows: NDArray[np.int64]) -> Values:
    """Some rows; of texts no more than their longest."""
    part = {name: values[rows] for name, values in arrays.items()}
    if part.keys() == {"ids", "mask"}:
        longest = max(1, int(part["mask"].sum(1).max()))
        part = {name: values[:, :longest] for name, values in part.items()}
    return part


# ---------------------------------------------------------------------------------------------------------------------
# What comes out


def _said(backend: Backend, graph: str, arrays: Arrays) -> Values:
    """Answers to all rows, in batches."""
    count = len(next(iter(arrays.values())))
    parts = [
        backend.run(graph, _rows(arrays, np.arange(start, min(start + max(BATCHES), count))))
        for start in range(0, count, max(BATCHES))
    ]
    names = [name for name in parts[0] if not name.startswith("logits.")]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _agreement(ours: Values, theirs: Values) -> Agreement:
    """Of vectors the cosines; of a model with targets its answers, the mean over them; without targets its states."""
    answers = [name for name in ours if name.startswith("answer.")] or list(ours)
    found = [_near(np.asarray(ours[name], np.float64), np.asarray(theirs[name], np.float64)) for name in answers]
    return Agreement(
        statistics.fmean(one.mean for one in found),
        min(one.least for one in found),
        statistics.fmean(one.same for one in found),
    )


def _near(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Agreement:
    if ours.ndim == 1:  # values of a regression
        spread = ours.std() or 1.0
        likeness = 1 - np.abs(ours - theirs) / spread
        return Agreement(float(likeness.mean()), float(likeness.min()), float((likeness > 0.99).mean()))
    flat, other = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, ours.shape[-1])
    lengths = np.linalg.norm(flat, axis=1) * np.linalg.norm(other, axis=1)
    cosines = (flat * other).sum(1) / lengths.clip(1e-12)
    if np.allclose(np.linalg.norm(flat, axis=1), 1) and len(flat) > 1:  # vectors: who is the nearest of the others?
        same = (_neighbours(flat) == _neighbours(other)).mean()
    else:
        same = (flat.argmax(1) == other.argmax(1)).mean()
    return Agreement(float(cosines.mean()), float(cosines.min()), float(same))


def _neighbours(vectors: NDArray[np.float64]) -> NDArray[np.int64]:
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    nearest: NDArray[np.int64] = cosines.argmax(1)
    return nearest
