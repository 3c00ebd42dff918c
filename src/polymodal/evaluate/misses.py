"""The answers that were most wrong, with the row that was asked about: its number, what was wanted, and its inputs.

N rows; C classes, labels or answers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit

from polymodal.data.cell_files import is_empty, reference
from polymodal.data.decode import open_image, upright
from polymodal.data.feature_rows import FeatureRows
from polymodal.data.manifest import Manifest
from polymodal.data.source import PlainRows, Rows
from polymodal.data.texts import joined
from polymodal.engine import Predictor
from polymodal.engine.answers import read, read_tags
from polymodal.errors import DataError
from polymodal.evaluate.measured import Known
from polymodal.evaluate.report import small
from polymodal.features import ImageInput, InputConfig, RecordInput, TextInput
from polymodal.metrics.supervised import decide, probabilities

SHOWN = 12  # of each target
LONGEST = 200  # characters of a text or a file's name
ANSWERS = 5  # of several people, or labels


def worst(name: str, known: Known, rows: FeatureRows, predictor: Predictor) -> list[dict[str, Any]]:
    """The answers of a target that were most wrong, the worst first; none where all were right."""
    badness, wrong = _badness(known)
    order = np.argsort(-np.where(wrong, badness, -np.inf), kind="stable")[:SHOWN]
    places = order[wrong[order]]
    answers = _answers(known, places, rows, predictor)
    cells = [[rows.source.cell(int(place), column) for column in known.target.columns] for place in places]
    return [
        {"row": int(rows.source.row_numbers[place]), "wanted": _wanted(known, int(place), cell), **answer}
        for place, cell, answer in zip(places, cells, answers, strict=True)
    ]


def _badness(known: Known) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(N,) how wrong each row's answer is, within its task; and whether it is wrong and the right one known.

    Of classes what is missing in the right one's probability; of ordered ones first how many classes it is off; of
    numbers the distance; of labels their log loss; of soft answers what the best one would have had more; of words how
    many are wrong.
    """
    task, there, rows = known.target.task, known.known.numpy(), known.rows()
    values, logits = known.values.double().numpy(), known.logits
    if task == "regression":
        return np.abs(known.outputs[:, 0].double().numpy() - values) * known.target.std, rows
    if task == "tokens":
        misses = ((decide(task, logits) != values) & there).sum(1)
        return misses.astype(np.float64), misses > 0
    if task == "soft":
        lost = values.max(1) - np.take_along_axis(values, decide(task, logits)[:, None], 1)[:, 0]
        return lost, rows & (lost > 0)
    if task == "multilabel":
        signed = np.where(values > 0.5, 1, -1) * logits.double().numpy()
        return (-np.log(expit(signed)) * there).sum(1), ((decide(task, logits) != (values > 0.5)) & there).any(1)
    true, said = values.astype(np.int64), decide(task, logits)
    lacking = 1 - np.take_along_axis(probabilities(task, logits), true[:, None], 1)[:, 0]
    steps = np.abs(true - said) if task == "ordinal" else 0
    return steps + lacking, rows & (true != said)


def _answers(known: Known, places: NDArray[np.int64], rows: FeatureRows, predictor: Predictor) -> list[dict[str, Any]]:
    if not len(places):
        return []
    target = known.target
    if target.task != "tokens":
        return [{"got": one.value, "probability": one.probability} for one in read(target, known.outputs[places])]
    config = rows.features.inputs[target.text]
    assert isinstance(config, TextInput)
    assert predictor.tokenizer is not None
    cells = [rows.source.cell(int(place), config.columns[0]) for place in places]
    found = read_tags(target, known.outputs[places], cells, predictor.tokenizer)
    return [{"got": one.value, "words": list(one.words or ()), "probability": None} for one in found]


def _wanted(known: Known, place: int, cells: list[Any]) -> Any:
    target, values, there = known.target, known.values[place], known.known[place]
    match target.task:
        case "regression":
            return float(values) * target.std + target.mean
        case "multilabel":
            return [
                label for label, one, is_known in zip(target.classes, values, there, strict=True) if one and is_known
            ]
        case "soft":
            scores = {target.classes[at]: round(float(values[at]), 3) for at in values.nonzero().flatten().tolist()}
            return dict(sorted(scores.items(), key=lambda one: -one[1])[:ANSWERS])
        case "tokens":
            return cells[0]
        case _:
            return target.classes[int(values)]


# ---------------------------------------------------------------------------------------------------------------------
# What a row looks like


def preview(rows: FeatureRows, numbers: list[int]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """By row number, what each input holds, texts cut; and by "row/input" pictures as data: addresses."""
    source = rows.source
    places = np.flatnonzero(np.isin(source.row_numbers, numbers))
    if isinstance(source, PlainRows):
        part: Manifest | PlainRows = PlainRows([source.rows[place] for place in places.tolist()], source.root)
    else:
        part = source.select(places)
    shown: dict[str, dict[str, Any]] = {}
    pictures: dict[str, str] = {}
    for nth, place in enumerate(places.tolist()):
        number = str(source.row_numbers[place])
        shown[number] = {}
        for name, config in rows.features.inputs.items():
            if isinstance(config, ImageInput) and (picture := _picture(Rows(part), nth, config.column)) is not None:
                pictures[f"{number}/{name}"] = picture
            shown[number][name] = _seen(Rows(part), nth, config)
    return shown, pictures


def _seen(rows: Rows, place: int, config: InputConfig) -> Any:
    """A text, cut; a record's columns and values; of anything else its file's name; None where there is nothing."""
    match config:
        case TextInput():
            return _cut(joined(rows, config)[place].as_py())
        case RecordInput(numbers=numbers, categories=categories):
            names = [*(one.name for one in numbers), *(one.name for one in categories)]
            cells = {name: rows.cell(place, name) for name in names}
            return {name: _cut(str(value)) for name, value in cells.items() if value not in (None, "")} or None
        case _:
            value = reference(rows.cell(place, config.column))
            if is_empty(value):
                return None
            return _cut(value) if isinstance(value, str) else f"({type(value).__name__})"


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _picture(rows: Rows, place: int, column: str) -> str | None:
    given = reference(rows.cell(place, column))
    if is_empty(given):
        return None
    try:
        return small(upright(given).copy() if isinstance(given, Image.Image) else open_image(given, rows.source.root))
    except DataError:
        return None  # it is among the faults
