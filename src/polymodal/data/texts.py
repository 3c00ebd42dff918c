"""Texts of a table as token ids, made once; and which piece of a text carries the label of which word.

Shapes: N rows; B rows of a batch; L tokens, the longest of the batch.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.ragged import Ragged
from polymodal.data.source import Rows, Trouble
from polymodal.data.values import as_lists, as_strings, gaps, join, parsed_json
from polymodal.features import Target, TextInput
from polymodal.preprocess import TextPreprocess
from polymodal.text import Tokenizer
from polymodal.types import Text

CHUNK = 4096  # texts tokenized at a time
CHARACTERS = 64  # for each token that is kept; what stands behind them is cut off before tokenizing, which takes time


def joined(rows: Rows, config: TextInput) -> pa.ChunkedArray:
    """The text of every row: of one column its words, of several lines of "name: words"; null where there is none."""
    columns = {name: _said(rows.column(name), config.pick) for name in config.columns}
    if len(columns) == 1:
        return columns[config.columns[0]]
    lines = [
        pc.binary_join_element_wise(f"{name}: ", column, "\n", "").fill_null("") for name, column in columns.items()
    ]
    text = pc.utf8_rtrim(pc.binary_join_element_wise(*lines, ""), "\n")
    return pc.if_else(pc.equal(text, ""), None, text)


def _said(column: pa.ChunkedArray, pick: bool) -> pa.ChunkedArray:
    if not pick:
        strings = as_strings(column)
        return _words_joined(strings) if pc.any(pc.starts_with(strings, "[")).as_py() else strings
    return pa.chunked_array([pa.array([next(iter(cell or ()), None) for cell in as_lists(column)], pa.string())])


def _words_joined(strings: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists of words that a CSV holds as JSON, as the texts that they are in other tables."""
    listed = [parsed_json(string) for string in strings.to_pylist()]
    texts = [join(list(map(str, words))) if isinstance(words, list) else None for words in listed]
    is_list = pa.array([isinstance(words, list) for words in listed])
    return pa.chunked_array([pc.if_else(is_list, pa.array(texts, pa.string()), strings.combine_chunks())])


class Texts:
    """Token ids of all rows' texts, 4 bytes each; equal texts are tokenized and kept once."""

    def __init__(self, texts: pa.ChunkedArray, tokenizer: Tokenizer, preprocess: TextPreprocess) -> None:
        """
        Args:
            texts: (N,), null where a row has none.
        """
        self.pad_id = tokenizer.pad_id
        encoded = texts.combine_chunks().dictionary_encode()
        distinct = Ragged.of(_token_ids(encoded.dictionary, tokenizer, preprocess), np.int32)
        places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        empty = Ragged(distinct.values, np.append(distinct.ends, 0), np.append(distinct.starts, 0))  # -1: the last
        self.ids = empty.take(places)

    @property
    def present(self) -> NDArray[np.bool_]:
        """(N,) whether there is a text of at least one token."""
        return self.ids.lengths > 0

    def batch(self, places: NDArray[np.int64]) -> Text:
        ids, mask = self.ids.padded(places, self.pad_id)
        return Text(torch.from_numpy(ids).long(), torch.from_numpy(mask))


def _token_ids(texts: pa.Array, tokenizer: Tokenizer, preprocess: TextPreprocess) -> Iterator[NDArray[np.int32]]:
    longest = CHARACTERS * preprocess.max_length
    for start in range(0, len(texts), CHUNK):
        chunk = pc.utf8_slice_codeunits(texts.slice(start, CHUNK), 0, longest).to_pylist()
        ids, mask = tokenizer(chunk, preprocess)
        lengths = mask.sum(1).tolist()
        yield from (row[:length] for row, length in zip(ids.numpy().astype(np.int32), lengths, strict=True))


class WordLabels(NamedTuple):
    """Class of every token that is the first piece of a word, -1 at all others."""

    labels: Ragged

    def batch(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        labels, _ = self.labels.padded(places, -1)
        known = labels >= 0
        return torch.from_numpy(labels.clip(0)).long(), torch.from_numpy(known)


def word_labels(
    rows: Rows, target: Target, words_column: str, texts: Texts, tokenizer: Tokenizer, trouble: Trouble
) -> WordLabels:
    """Labels of words, laid on the first piece of each; words behind `max_length` have none.

    Args:
        words_column: lists of words, as long as the lists of labels; a row where they are not is a fault.
        texts: of these words.
    """
    code = {label: place for place, label in enumerate(target.classes)}
    lengths, name = texts.ids.lengths, target.columns[0]
    both = zip(as_lists(rows.column(words_column)), as_lists(rows.column(name)), strict=True)
    labels = []
    for place, (words, tags) in enumerate(both):
        row = np.full(lengths[place], -1, np.int64)
        if words and tags and len(words) != len(tags):
            reason = f"has {len(tags)} labels for {len(words)} words, so they are not known"
            trouble.add(place, name, "unequal", reason, "give each word one label", "warning")
        elif words and tags and len(row):
            first = first_pieces(words, tokenizer, len(row))
            codes = np.array([code.get(tag, -1) for tag in tags], np.int64)
            row[first[first >= 0]] = codes[first >= 0]
            if (codes < 0).any():
                reason = f'has the label "{tags[int(codes.argmin())]}", which no training row has; it is not known'
                trouble.add(place, name, "unseen-class", reason, "correct it or leave it empty", "warning")
        labels.append(row)
    return WordLabels(Ragged.of(labels, np.int64))


def first_pieces(words: Sequence[str], tokenizer: Tokenizer, length: int) -> NDArray[np.int64]:
    """(words,) the first token of each word in the text that `values.join` makes of them.

    -1 of a word that has none among the first `length` tokens, or whose first characters share one with the word
    before it.
    """
    text, spans = spread(words)
    return pieces_at(text, spans, tokenizer, length)


def spread(words: Sequence[str]) -> tuple[str, NDArray[np.int64]]:
    """The text that `values.join` makes of words, and where in it each begins and ends, (words, 2)."""
    spaces = gaps(words)
    ends = np.cumsum([len(word) + gap for word, gap in zip(words, spaces, strict=True)])
    starts = ends - [len(word) for word in words]
    text = "".join(f" {word}" if gap else word for word, gap in zip(words, spaces, strict=True))
    return text, np.stack([starts, ends], 1)


def pieces_at(text: str, spans: NDArray[np.int64], tokenizer: Tokenizer, length: int) -> NDArray[np.int64]:
    """(words,) the first token of each word of a text, -1 as `first_pieces` says.

    Args:
        spans: (words, 2) where in the text each begins and ends.
    """
    starts, ends = spans[:, 0], spans[:, 1]
    encoding = tokenizer.backend.encode(text)
    first = np.full(len(spans), -1, np.int64)
    word = reached = 0
    for token, (begin, end) in enumerate(encoding.offsets[:length]):
        while word < len(spans) and ends[word] <= begin:
            word += 1
        if word < len(spans) and end > starts[word] and reached <= starts[word] and first[word] < 0:
            first[word] = token
        reached = max(reached, end)
    return first
