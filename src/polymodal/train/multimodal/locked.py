"""What locked encoders say of every row, worked out once.

As in LiT (Zhai et al. 2022, arXiv:2111.07991, section 4): an encoder that does not learn and always sees the same need
not run in every epoch. Shapes: B rows of a batch; N rows; L tokens; D width.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from polymodal.data.cache import digest
from polymodal.data.feature_rows import FeatureRows
from polymodal.data.manifest import Manifest
from polymodal.encoders import for_use
from polymodal.features import Features, TextInput
from polymodal.models.multimodal import Multimodal, blank
from polymodal.objectives.supervised import SupervisedConfig
from polymodal.train.console import bar, say
from polymodal.train.locked import MOST_BYTES, is_locked
from polymodal.train.multimodal.recipe import MultimodalRecipe
from polymodal.train.rows import numbered
from polymodal.types import Batch, Tokens

AT_ONCE = 64  # rows that an encoder looks at

_shared: ContextVar[dict[str, "Said"] | None] = ContextVar("said", default=None)


class Said(NamedTuple):
    """An encoder's `Tokens` of N rows, without their padding."""

    sequences: list[Tensor]  # (L, D) each
    masks: list[Tensor]  # (L,) bool each
    pooled: Tensor  # (N, D)
    present: Tensor  # (N,) bool

    def at(self, places: list[int]) -> Tokens:
        """Of the rows at `places` (B,), padded to the longest of them."""
        return Tokens(
            pad_sequence([self.sequences[place] for place in places], batch_first=True),
            pad_sequence([self.masks[place] for place in places], batch_first=True),
            self.pooled[places],
        )


class LockedRows:
    """Batches of rows in which the inputs of locked encoders are `Tokens`."""

    def __init__(self, rows: FeatureRows, said: Mapping[str, Said]) -> None:
        self.rows, self.said = rows, dict(said)
        self._others = [name for name in rows.features.inputs if name not in said]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, places: ArrayLike, epoch: int = 0) -> Batch:
        chosen = np.asarray(places, np.int64).tolist()
        batch = self.rows.batch(chosen, epoch, only=self._others)
        return batch._replace(
            inputs={**batch.inputs, **{name: said.at(chosen) for name, said in self.said.items()}},
            present={**batch.present, **{name: said.present[chosen] for name, said in self.said.items()}},
        )


def locked_inputs(model: Multimodal, features: Features, recipe: MultimodalRecipe) -> list[str]:
    """Inputs whose encoders do not learn and see a row always the same.

    Objectives that hide parts of an input, or compare its content, need the input itself.
    """
    plain = all(isinstance(objective, SupervisedConfig) for objective in recipe.objectives)
    if not recipe.trainer.cache_locked or recipe.data.augment is not None or not plain:
        return []
    return [name for name in features.inputs if is_locked(model.encoders[name])]


@contextmanager
def looks_shared() -> Iterator[None]:
    """Runs within it that have the same locked encoders on the same rows look once for all of them.

    Between them the tables must stay as they are; what was said is kept in memory until the end.
    """
    token = _shared.set({})
    try:
        yield
    finally:
        _shared.reset(token)


def look_once(model: Multimodal, names: list[str], parts: list[FeatureRows]) -> Sequence[FeatureRows | LockedRows]:
    """Each part's rows with what these encoders say of them; as they are where that does not fit into memory."""
    total = sum(len(rows) for rows in parts)
    towers = {name: for_use(model.encoders[name].eval()) for name in names}
    fitting = [name for name in names if total * _row_bytes(towers[name], name, parts[0]) <= MOST_BYTES]
    for name in names:
        if name not in fitting:
            say(f"{name}: its locked encoder runs in every epoch; what it says of {total:,} rows is too much to keep")
    if not fitting:
        return parts
    say(f"looking at {', '.join(fitting)} with locked encoders: once, {total:,} rows in all")
    found: list[FeatureRows | LockedRows] = []
    with bar() as progress:
        task = progress.add_task("looking once", total=total * len(fitting))
        for rows in parts:
            said = {}
            for name in fitting:
                said[name] = _looked(towers[name], name, rows, partial(progress.advance, task))
            found.append(LockedRows(rows, said))
    return found


def _looked(tower: nn.Module, name: str, rows: FeatureRows, advance: Callable[[int], None]) -> Said:
    shared = _shared.get()
    key = _key(tower, name, rows) if shared is not None else ""
    if shared is not None and key in shared:
        return shared[key]
    first, entry = _different(rows, name)
    batches = []
    for start in range(0, len(first), AT_ONCE):
        places = first[start : start + AT_ONCE]
        batches.append(_say(tower, name, rows, places))
        advance(int(np.isin(entry, range(start, start + len(places))).sum()))
    said = _of_rows(_joined(batches), entry)
    if shared is not None:
        shared[key] = said
    return said


def _key(tower: nn.Module, name: str, rows: FeatureRows) -> str:
    """Equal for the same weights on the same rows, seen in the same way."""
    weights = hashlib.sha256()
    for part, values in tower.state_dict().items():
        weights.update(part.encode() + values.cpu().contiguous().numpy().tobytes())
    seen = hashlib.sha256(np.asarray(rows.source.row_numbers).tobytes()).hexdigest()
    config = rows.features.inputs[name]
    words = rows.tokenizer.backend.get_vocab() if isinstance(config, TextInput) and rows.tokenizer else {}
    return digest(weights.hexdigest(), config.to_dict(), sorted(words.items()), str(rows.source.source), seen)


def _different(rows: FeatureRows, name: str) -> tuple[list[int], NDArray[np.int64]]:
    """The first row of each different file that an input names, and (N,) which of them each row has.

    Many questions about one picture need one look at it. Rows of inputs that are no files count as different.
    """
    column = getattr(rows.features.inputs[name], "column", None)
    numbers = np.arange(len(rows))
    if column is not None and isinstance(rows.source, Manifest):
        cells = rows.source.column(column)
        if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
            numbers = numbered(cells)
    _, first, entry = np.unique(numbers, return_index=True, return_inverse=True)
    return first.tolist(), entry


def _of_rows(said: Said, entry: NDArray[np.int64]) -> Said:
    """Of N rows what was said of their files; sequences are not copied."""
    return Said(
        [said.sequences[one] for one in entry],
        [said.masks[one] for one in entry],
        said.pooled[entry],
        said.present[entry],
    )


def _row_bytes(tower: nn.Module, name: str, rows: FeatureRows) -> float:
    """Of one row's tokens, by the first few."""
    first = _say(tower, name, rows, range(min(8, len(rows))))
    values = [*first.sequences, *first.masks, first.pooled]
    return sum(value.numel() * value.element_size() for value in values) / len(first.pooled)


@torch.no_grad()
def _say(tower: nn.Module, name: str, rows: FeatureRows, places: Sequence[int]) -> Said:
    batch = rows.batch(list(places), only=[name])
    present = batch.present[name]
    sequence, mask, pooled = tower(blank(rows.features.normalize(batch.inputs)[name], present))
    lengths = [int(real.nonzero().max()) + 1 for real in mask]
    return Said(
        [one[:length].clone() for one, length in zip(sequence, lengths, strict=True)],
        [one[:length].clone() for one, length in zip(mask, lengths, strict=True)],
        pooled,
        present,
    )


def _joined(batches: list[Said]) -> Said:
    return Said(
        [one for said in batches for one in said.sequences],
        [one for said in batches for one in said.masks],
        torch.cat([said.pooled for said in batches]),
        torch.cat([said.present for said in batches]),
    )
