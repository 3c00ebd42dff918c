"""The predictions of a table as a file for other programs: .csv, .jsonl or .parquet."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polymodal.data.cache import written_beside
from polymodal.data.faults import Fault
from polymodal.data.feature_rows import FeatureRows
from polymodal.engine.answers import Prediction
from polymodal.engine.predict import BATCH_SIZE, Predictor, faults_of, notes_of
from polymodal.errors import ConfigError
from polymodal.features import Features, Target

Line = tuple[int, Mapping[str, Prediction]]  # a row's number in the source, and its predictions


@dataclass(frozen=True)
class Written:
    count: int
    faults: list[Fault]
    faults_file: Path | None  # None when there are none
    notes: tuple[str, ...]


def check_name(out: Path) -> None:
    """
    Raises:
        ConfigError: the name's ending says no format that we write, or its folder is not there.
    """
    if out.suffix.lower() not in _WRITERS:
        raise ConfigError(f"--out {out}: wanted a name that ends in {', '.join(_WRITERS)}")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it first")


def write_predictions(
    predictor: Predictor,
    rows: FeatureRows,
    out: Path,
    *,
    probabilities: bool = False,
    batch_size: int = BATCH_SIZE,
    progress: bool = False,
) -> Written:
    """Write every target of every row; what was there under the name is replaced at the end.

    Each line has `row`, the number in the source from 1. A target of classes has its class and `TARGET_probability`;
    lists (labels, tags of words) are JSON in a CSV. Of cells that count as empty NAME.faults.jsonl says why.

    Args:
        probabilities: those of all classes and labels too: in a CSV a column each, `TARGET=CLASS`.

    Raises:
        ArtifactError: the model has no targets.
        ConfigError: the name has another ending.
        DataError: the folder cannot be written to.
    """
    check_name(out)
    predictor.refuse_without_targets()
    lines = _lines(predictor, rows, batch_size, progress)
    with written_beside(out, "choose another place for --out") as fresh:
        _WRITERS[out.suffix.lower()](fresh, predictor.features, lines, probabilities)
    faults = faults_of(rows)
    faults_file = out.with_name(f"{out.name}.faults.jsonl")
    faults_file.unlink(missing_ok=True)  # of an earlier run
    if faults:
        with written_beside(faults_file) as fresh, fresh.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(fault._asdict(), ensure_ascii=False) + "\n" for fault in faults)
    return Written(len(rows), faults, faults_file if faults else None, notes_of(rows))


def _lines(predictor: Predictor, rows: FeatureRows, batch_size: int, progress: bool) -> Iterator[list[Line]]:
    start = 0
    for part in predictor.answers(rows, batch_size=batch_size, progress=progress):
        numbers = rows.source.row_numbers[start : start + len(part)].tolist()
        start += len(part)
        yield list(zip(numbers, part, strict=True))


def plain(number: int, predictions: Mapping[str, Prediction], *, probabilities: bool) -> dict[str, Any]:
    """One row as plain values: {"row": 3, "city": {"value": "Oslo", "probability": 0.93}}."""
    told = {name: one.to_dict(probabilities=probabilities) for name, one in predictions.items()}
    return {"row": number, **told}


def _write_jsonl(file: Path, features: Features, lines: Iterator[list[Line]], probabilities: bool) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for part in lines:
            for number, predictions in part:
                told = plain(number, predictions, probabilities=probabilities)
                stream.write(json.dumps(told, ensure_ascii=False) + "\n")


def _write_csv(file: Path, features: Features, lines: Iterator[list[Line]], probabilities: bool) -> None:
    columns = {name: _csv_columns(name, target, probabilities) for name, target in features.targets.items()}
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row", *(head for heads in columns.values() for head in heads)])
        for part in lines:
            writer.writerows(
                [number, *(cell for name, heads in columns.items() for cell in _csv_cells(predictions[name], heads))]
                for number, predictions in part
            )


def _csv_columns(name: str, target: Target, probabilities: bool) -> list[str]:
    heads = [name]
    if has_probability(target):
        heads.append(f"{name}_probability")
    if probabilities and has_probabilities(target):
        heads += [f"{name}={one}" for one in target.classes]
    return heads


def _csv_cells(prediction: Prediction, heads: Sequence[str]) -> list[Any]:
    value = prediction.value
    if isinstance(value, float):
        value = f"{value:.9g}"  # as many digits as a float32 has
    cells = [json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value]
    if prediction.probability is not None:
        cells.append(f"{prediction.probability:.6g}")
    if len(heads) > len(cells) and prediction.probabilities is not None:
        cells += [f"{share:.6g}" for share in prediction.probabilities.values()]
    return cells


def _write_parquet(file: Path, features: Features, lines: Iterator[list[Line]], probabilities: bool) -> None:
    columns = {name: _arrow_columns(name, target, probabilities) for name, target in features.targets.items()}
    fields = [pa.field(head, kind) for heads in columns.values() for head, kind in heads.items()]
    schema = pa.schema([pa.field("row", pa.int64()), *fields])
    with pq.ParquetWriter(file, schema) as writer:
        for part in lines:
            values: dict[str, list[Any]] = {field.name: [] for field in schema}
            for number, predictions in part:
                values["row"].append(number)
                for name, heads in columns.items():
                    told = predictions[name].to_dict(probabilities=True)
                    for head in heads:
                        values[head].append(told.get(head[len(name) + 1 :] or "value"))
            writer.write_table(pa.table(values, schema=schema))


def _arrow_columns(name: str, target: Target, probabilities: bool) -> dict[str, pa.DataType]:
    strings = pa.list_(pa.string())
    kinds = {"regression": pa.float64(), "multilabel": strings, "tokens": strings}
    heads = {name: kinds.get(target.task, pa.string())}
    if target.task == "tokens":
        heads[f"{name}_words"] = strings
    if has_probability(target):
        heads[f"{name}_probability"] = pa.float64()
    if probabilities and has_probabilities(target):
        heads[f"{name}_probabilities"] = pa.map_(pa.string(), pa.float64())
    return heads


def has_probability(target: Target) -> bool:
    """Whether an answer is one class."""
    return target.task in ("binary", "multiclass", "ordinal", "soft")


def has_probabilities(target: Target) -> bool:
    """Whether there is a probability of each class or label."""
    return target.task not in ("regression", "tokens")


_WRITERS: Mapping[str, Callable[[Path, Features, Iterator[list[Line]], bool], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
