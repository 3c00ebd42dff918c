"""Columns to predict: which task they are, and their values as the arrays that `features.Target` describes.

VQA's soft scores: github.com/GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py.
Shapes: N rows; B rows of a batch; C classes.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.manifest import Manifest
from polymodal.data.ragged import Ragged
from polymodal.data.source import Rows, Trouble
from polymodal.data.values import as_lists, as_numbers, as_strings, is_list, mean_and_std, parsed_json, scaled
from polymodal.errors import DataError
from polymodal.features import Target, Task

MAX_ANSWERS = 3129  # as many as are usual for VQA v2, github.com/hengyuan-hu/bottom-up-attention-vqa
FEW = 10  # whole numbers of so few values are classes, if each stands in 5 rows or more


def _split(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NO = _split("0 false no n off negative neg normal absent none ham 否 无 阴性 正常 假 不是 没有")
_YES = _split("1 true yes y on positive pos abnormal present spam 是 有 阳性 异常 真")


# ---------------------------------------------------------------------------------------------------------------------
# Which task it is


def infer_target(manifest: Manifest, columns: str | Sequence[str], task: Task | None = None) -> tuple[Target, str]:
    """What the values of training rows say about a target, and why it was understood so.

    Args:
        manifest: the training rows; no other row has a say in classes, mean and std.
        columns: one column, or several of 0 and 1, each a label of one multilabel target.
        task: None: as the values suggest.

    Raises:
        DataError: there is no such column, it has no value, one value only, or none that suits the task.
    """
    names = (columns,) if isinstance(columns, str) else tuple(columns)
    for name in names:
        manifest.column(name)  # raises if it is not there
    if len(names) > 1:
        return _label_columns(manifest, names, task)
    [name] = names
    column, where = manifest.column(name), f'{manifest.source}: target "{name}"'
    if not _has_values(column):
        raise DataError(
            f"{where} has no value in any of the {len(manifest)} training rows; fill it in, or choose another column"
        )
    found, reason = (task, "asked for") if task is not None else _task(manifest, name, where)
    if found == "tokens" and _words(manifest, name) is None:
        raise DataError(f'{where}: task "tokens" needs another column with lists of words, as long as its own lists')
    return _learned(column, name, found, where), reason


def _has_values(column: pa.ChunkedArray) -> bool:
    return any(as_lists(column)) if is_list(column.type) else as_strings(column).null_count < len(column)


def _task(manifest: Manifest, name: str, where: str) -> tuple[Task, str]:
    column = manifest.column(name)
    if _holds_lists(manifest, name):
        lists = [cell for cell in as_lists(column) if cell]
        if (words := _words(manifest, name)) is not None:
            return "tokens", f'a label for each word of "{words}"'
        if any(len(set(cell)) < len(cell) for cell in lists):
            return "soft", "answers of several people, some of whom agree"
        return "multilabel", f"lists of labels, {len({label for cell in lists for label in cell})} different ones"
    strings = as_strings(column).drop_null()
    values, (numbers, refused) = pc.unique(strings), as_numbers(column)
    if len(values) <= 2:
        return "binary", f"two values: {', '.join(values.to_pylist())}"
    if refused.sum() <= 0.05 * len(strings) and not np.isnan(numbers).all():
        known = numbers[~np.isnan(numbers)]
        is_named = any(one.name == name and one.modality == "category" for one in manifest.columns)
        if (known == known.round()).all() and (is_named or (len(values) <= FEW and len(known) >= 5 * len(values))):
            return "multiclass", f"{len(values)} whole numbers; say ordinal or regression if their order matters"
        return "regression", "values are numbers"
    if len(values) > max(20, len(strings) // 2):
        raise DataError(
            f"{where} has {len(values)} different texts in {len(strings)} rows: neither numbers nor classes that "
            "repeat; choose another column"
        )
    return "multiclass", f"{len(values)} classes"


def _holds_lists(manifest: Manifest, name: str) -> bool:
    column = manifest.column(name)
    if is_list(column.type) or any(one.name == name and one.modality == "labels" for one in manifest.columns):
        return True
    return pa.types.is_string(column.type) and isinstance(parsed_json(_first(column)), list)


def _first(column: pa.ChunkedArray) -> str | None:
    filled = as_strings(column).drop_null()
    return filled[0].as_py() if len(filled) else None


def words_column(manifest: Manifest, target: Target) -> str | None:
    """The column of lists of words that a tokens target labels; None for every other task."""
    return _words(manifest, target.columns[0]) if target.task == "tokens" else None


def _words(manifest: Manifest, tags: str) -> str | None:
    """The column of lists that are as long as those of `tags` in every row, and say more."""
    lengths, kinds = _lengths(manifest, tags)
    if max(lengths, default=0) < 2:
        return None
    for column in manifest.columns:
        if column.name != tags and column.modality in ("text", "labels") and _holds_lists(manifest, column.name):
            other, words = _lengths(manifest, column.name)
            if other == lengths and words > kinds:
                return column.name
    return None


def _lengths(manifest: Manifest, name: str) -> tuple[list[int], int]:
    lists = as_lists(manifest.column(name))
    return [len(cell or ()) for cell in lists], len({word for cell in lists for word in cell or ()})


# ---------------------------------------------------------------------------------------------------------------------
# Classes, mean and std


def _learned(column: pa.ChunkedArray, name: str, task: Task, where: str) -> Target:
    if task == "regression":
        return _scaled(column, name, where)
    if task in ("multilabel", "soft", "tokens"):
        counts = Counter(label for cell in as_lists(column) for label in _counted(cell, task))
        common = [label for label, _ in counts.most_common(MAX_ANSWERS)]
        classes = common if task == "soft" else sorted(counts, key=lambda label: (label != "O", natural(label)))
    else:
        classes = sorted(pc.unique(as_strings(column).drop_null()).to_pylist(), key=natural)
    if len(classes) < 2:
        rows = len(column) - as_strings(column).null_count
        raise DataError(
            f'{where} has one class only ("{classes[0] if classes else ""}", {rows} rows), wanted two or more; '
            "add rows of another class, or choose another column"
        )
    if task == "binary":
        if len(classes) > 2:
            raise DataError(f'{where} has {len(classes)} values, a binary target has two; use "multiclass"')
        classes.sort(key=lambda value: (value.lower() in _YES) - (value.lower() in _NO))
    return Target(columns=(name,), task=task, classes=tuple(classes))


def _counted(cell: list[str] | None, task: Task) -> list[str]:
    """Labels of a cell, tidied where they are answers; what one row says counts once."""
    return sorted(set(map(tidy, cell) if task == "soft" else cell)) if cell else []


def _scaled(column: pa.ChunkedArray, name: str, where: str) -> Target:
    numbers, _ = as_numbers(column)
    known = numbers[~np.isnan(numbers)]
    if len(known) == 0:
        raise DataError(f"{where} has no number in any of {len(column)} rows; choose another column or task")
    mean, std = mean_and_std(known)
    if std == 0:
        raise DataError(f"{where} has one value only ({known[0]:g}, {len(known)} rows): there is nothing to learn")
    return Target(columns=(name,), task="regression", mean=mean, std=std)


def _label_columns(manifest: Manifest, names: tuple[str, ...], task: Task | None) -> tuple[Target, str]:
    where = f"{manifest.source}: target {', '.join(names)}"
    if task not in (None, "multilabel"):
        raise DataError(f'{where}: several columns together are a multilabel target, got task "{task}"')
    values = np.stack([_zero_one(manifest.column(name))[0] for name in names])
    if np.isnan(values).all():
        raise DataError(f"{where} has no 0 or 1 in any of the {len(manifest)} training rows; fill them in")
    if not any(len(np.unique(one[~np.isnan(one)])) == 2 for one in values):
        raise DataError(f"{where}: every column has one class only, wanted 0 and 1 in one of them at least")
    return Target(columns=names, task="multilabel", classes=names), "several columns, each a label"


def _zero_one(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(N,) 0, 1, or NaN where not known; and where a cell holds something else."""
    strings = pc.utf8_lower(as_strings(column))
    no, yes = (pc.is_in(strings, pa.array(sorted(words))).to_numpy() for words in (_NO, _YES))
    values = np.where(yes, 1.0, np.where(no, 0.0, np.nan))
    numbers, refused = as_numbers(column)
    return values, np.isnan(values) & (refused | ~np.isnan(numbers))


def natural(value: str) -> tuple[int, float, str]:
    """Sorts numbers as numbers, before words."""
    try:
        return 0, float(value), value
    except ValueError:
        return 1, 0.0, value


def tidy(answer: str) -> str:
    """An answer of a person as it is counted: without case and needless blanks."""
    return " ".join(answer.lower().split())


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """VQA accuracy of each answer, 0 to 1: the mean over people of min(1, agreeing others / 3).

    Of ten people 1, 2, 3, 4 who say so give 0.3, 0.6, 0.9 and 1. Fewer than four people are measured by what they
    would get if all agreed, so that the only answer of the only person is right.
    """
    people = len(answers)

    def score(said: int) -> float:
        return (said * min(1.0, (said - 1) / 3) + (people - said) * min(1.0, said / 3)) / people

    best = score(people)
    return {answer: score(said) / best if best else 1.0 for answer, said in Counter(answers).items()}


# ---------------------------------------------------------------------------------------------------------------------
# Values as arrays


class TargetRows(Protocol):
    def batch(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Values (B, ...) and which are known, as `features.Target` says."""
        ...


class Whole(NamedTuple):
    """Values of which each row has equally many."""

    values: Tensor
    known: Tensor

    def batch(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        chosen = torch.from_numpy(places)
        return self.values[chosen], self.known[chosen]


class Scores(NamedTuple):
    """Scores of a few of many classes, of which 0 is the rest."""

    classes: Ragged  # int64
    scores: Ragged  # float32
    known: NDArray[np.bool_]  # (N,)
    width: int  # C

    def batch(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        classes, mask = self.classes.padded(places, 0)
        scores, _ = self.scores.padded(places, 0.0)
        values = np.zeros((len(places), self.width), np.float32)
        row, _ = np.nonzero(mask)
        values[row, classes[mask]] = scores[mask]
        known = np.repeat(self.known[places][:, None], self.width, axis=1)
        return torch.from_numpy(values), torch.from_numpy(known)


def encode_target(rows: Rows, target: Target, trouble: Trouble) -> TargetRows:
    """Values of every row, of each task but tokens, which are known only with the text's pieces.

    What is empty, or in a column that the table lacks, is not known. What suits no class is not known either, and a
    fault.
    """
    columns = [rows.column(name) for name in target.columns]
    if len(columns) > 1:
        return _encode_columns(columns, target, trouble)
    [column], [name] = columns, target.columns
    match target.task:
        case "multilabel" | "soft":
            return _encode_lists(column, name, target, trouble)
        case "regression":
            numbers, refused = as_numbers(column)
            trouble.cells(refused, name, "not-a-number", column, "is no finite number, so the target is not known")
            values = torch.from_numpy(scaled(numbers, target.mean, target.std))
            return Whole(values, torch.from_numpy(~np.isnan(numbers)))
        case _:
            strings = as_strings(column)
            codes = pc.index_in(strings, pa.array(target.classes)).fill_null(-1).to_numpy().astype(np.int64)
            wrong = (codes < 0) & strings.is_valid().to_numpy()
            trouble.cells(
                wrong, name, "unseen-class", column, "is no class of the training rows, so the target is not known"
            )
            values = torch.from_numpy(codes.clip(0))
            return Whole(values.float() if target.task == "binary" else values, torch.from_numpy(codes >= 0))


def _encode_columns(columns: Sequence[pa.ChunkedArray], target: Target, trouble: Trouble) -> Whole:
    values = []
    for name, column in zip(target.columns, columns, strict=True):
        zero_one, wrong = _zero_one(column)
        trouble.cells(wrong, name, "not-a-label", column, "is neither 0 nor 1, so the label is not known")
        values.append(zero_one)
    stacked = torch.from_numpy(np.stack(values, axis=1)).float()
    return Whole(stacked.nan_to_num(0.0), ~stacked.isnan())


def _encode_lists(column: pa.ChunkedArray, name: str, target: Target, trouble: Trouble) -> Scores:
    lists, code = as_lists(column), {label: place for place, label in enumerate(target.classes)}
    known = np.array([cell is not None and (target.task == "multilabel" or bool(cell)) for cell in lists], bool)
    classes, scores = [], []
    unseen = np.zeros(len(lists), bool)
    for place, cell in enumerate(lists):
        found = soft_scores(list(map(tidy, cell))) if cell and target.task == "soft" else dict.fromkeys(cell or (), 1.0)
        kept = {code[label]: score for label, score in found.items() if label in code}
        unseen[place] = len(kept) < len(found) and (target.task == "multilabel" or not kept)
        classes.append(list(kept))
        scores.append(list(kept.values()))
    trouble.cells(unseen, name, "unseen-class", column, "has labels that no training row has; they count as nothing")
    return Scores(Ragged.of(classes, np.int64), Ragged.of(scores, np.float32), known, len(target.classes))
