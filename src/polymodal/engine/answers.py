"""From logits to answers: a class, a number, the labels that hold, a tag for each word.

Shapes: N rows; L tokens; C outputs of a target.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.texts import pieces_at, spread
from polymodal.data.values import as_lists, parsed_json
from polymodal.features import Target
from polymodal.metrics.supervised import decide, probabilities
from polymodal.text import Tokenizer

# A Chinese character is a word where nobody divided the text into others.
_WORD = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")


class Prediction(NamedTuple):
    """What a model says of one target of one row."""

    value: Any  # a class, a number, the labels that are likelier than not, or a tag for each word
    probability: float | None  # of the class; None of numbers, labels and tags
    probabilities: dict[str, float] | None  # of every class or label
    words: tuple[str, ...] | None = None  # those that the tags belong to

    def to_dict(self, *, probabilities: bool = False) -> dict[str, Any]:
        """What there is, as plain values.

        Args:
            probabilities: those of all classes too.
        """
        found: dict[str, Any] = {"value": self.value}
        if self.words is not None:
            found["words"] = list(self.words)
        if self.probability is not None:
            found["probability"] = self.probability
        if probabilities and self.probabilities is not None:
            found["probabilities"] = self.probabilities
        return found


def read(target: Target, outputs: Tensor) -> list[Prediction]:
    """The answers of N rows from logits or scaled values (N, C), of every task but tokens."""
    if target.task == "regression":
        return [Prediction(value, None, None) for value in (outputs[:, 0] * target.std + target.mean).tolist()]
    logits = outputs / target.temperature
    shares, decided = probabilities(target.task, logits).tolist(), decide(target.task, logits).tolist()
    if target.task == "multilabel":
        return [_labels(target, row, held) for row, held in zip(shares, decided, strict=True)]
    return [_class(target, row, best) for row, best in zip(shares, decided, strict=True)]


def _class(target: Target, shares: list[float], best: int) -> Prediction:
    named = dict(zip(target.classes, shares, strict=True))
    return Prediction(target.classes[best], shares[best], named)


def _labels(target: Target, shares: list[float], held: list[int]) -> Prediction:
    named = dict(zip(target.classes, shares, strict=True))
    return Prediction([label for label, one in zip(target.classes, held, strict=True) if one], None, named)


# ---------------------------------------------------------------------------------------------------------------------
# Words


def read_tags(target: Target, logits: Tensor, cells: Sequence[Any], tokenizer: Tokenizer) -> list[Prediction]:
    """A tag for each word of N rows: that of its first piece, as in training.

    Args:
        logits: (N, L, C).
        cells: (N,) lists of words, or texts, whose words stand between spaces; each Chinese character is one.

    A word behind the tokens that the model reads, or that shares its first piece with the word before, has None.
    """
    best = logits.argmax(-1).numpy()
    return [_tags(target, row, cell, tokenizer) for row, cell in zip(best, cells, strict=True)]


def _tags(target: Target, best: NDArray[np.int64], cell: Any, tokenizer: Tokenizer) -> Prediction:
    text, words, spans = _words(cell)
    if not words:
        return Prediction([], None, None, ())
    pieces = pieces_at(text, spans, tokenizer, len(best)).tolist()
    return Prediction([None if at < 0 else target.classes[best[at]] for at in pieces], None, None, tuple(words))


def _words(cell: Any) -> tuple[str, list[str], NDArray[np.int64]]:
    """A cell's text, its words, and where in the text each begins and ends, (words, 2)."""
    if isinstance(listed := parsed_json(cell), list):
        cell = listed
    if isinstance(cell, str):
        found = list(_WORD.finditer(text := cell.strip()))
        return text, [one[0] for one in found], np.array([one.span() for one in found])
    words = as_lists(pa.chunked_array([pa.array([cell])]))[0] or []
    text, spans = spread(words)
    return text, words, spans


def stacked(values: Sequence[Tensor]) -> Tensor:
    """Batches in one; of tokens, those of (B, L, ...) with zeros behind the shorter ones."""
    longest = max(value.shape[1] for value in values) if values[0].ndim > 1 else 0
    return torch.cat([_lengthened(value, longest) for value in values])


def _lengthened(value: Tensor, length: int) -> Tensor:
    if value.ndim == 1 or value.shape[1] == length:
        return value
    return torch.cat([value, value.new_zeros(len(value), length - value.shape[1], *value.shape[2:])], 1)
