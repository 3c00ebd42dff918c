"""What locked encoders say of every row, worked out once.

As in LiT (Zhai et al. 2022, arXiv:2111.07991, section 4): an encoder that does not learn and always sees the same need
not run in every epoch. Of an encoder of grid regions the backbone may be locked alone, as ViLBERT's detector is: then
the cells are worked out once. Shapes: B rows of a batch; N rows; L tokens or cells; D width.
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
from polymodal.encoders.regions import GridRegionsEncoder, grid_regions
from polymodal.features import Features, TextInput
from polymodal.models.multimodal import Multimodal, blank
from polymodal.objectives.mae import MaeConfig
from polymodal.objectives.masked_image import DenoisingConfig, MaskedImageConfig
from polymodal.objectives.supervised import SupervisedConfig
from polymodal.train.console import bar, say
from polymodal.train.locked import MOST_BYTES, is_locked
from polymodal.train.multimodal.recipe import MultimodalRecipe
from polymodal.train.rows import numbered
from polymodal.types import Batch, Regions, Tokens

AT_ONCE = 64  # rows that an encoder looks at

_OF_PIXELS = (MaskedImageConfig, DenoisingConfig, MaeConfig)  # objectives that hide pixels of their `input`

_shared: ContextVar[dict[str, "Said"] | None] = ContextVar("said", default=None)


class Said(NamedTuple):
    """What an encoder says of N rows, or the cells that its backbone finds in them, without padding."""

    kind: Callable[..., Tokens | Regions]
    parts: tuple[list[Tensor], ...]  # of `kind`, in its order: N tensors (L, ...) each
    pooled: Tensor | None  # (N, D), of tokens
    present: Tensor  # (N,) bool

    def at(self, places: list[int]) -> Tokens | Regions:
        """Of the rows at `places` (B,), padded to the longest of them."""
        padded = [pad_sequence([part[place] for place in places], batch_first=True) for part in self.parts]
        return self.kind(*padded) if self.pooled is None else self.kind(*padded, self.pooled[places])


class LockedRows:
    """Batches of rows in which the inputs of locked encoders are `Tokens`, and of locked backbones `Regions`."""

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


def locked_inputs(model: Multimodal, features: Features, recipe: MultimodalRecipe) -> dict[str, nn.Module]:
    """Inputs that are always seen the same and by something that does not learn, and what sees them.

    That is the encoder, or the backbone of one of grid regions. Objectives that hide parts of an input, or compare its
    content, need the input itself, and those that hide pixels need a picture's pixels.
    """
    if not recipe.trainer.cache_locked or recipe.data.augment is not None:
        return {}
    plain = all(isinstance(objective, SupervisedConfig) for objective in recipe.objectives)
    hidden = {objective.input for objective in recipe.objectives if isinstance(objective, _OF_PIXELS)}
    found: dict[str, nn.Module] = {}
    for name in features.inputs:
        encoder = model.encoders[name]
        if plain and is_locked(encoder):
            found[name] = for_use(encoder.eval())
        elif isinstance(encoder, GridRegionsEncoder) and is_locked(encoder.backbone) and name not in hidden:
            found[name] = _Cells(encoder)
    return found


class _Cells(nn.Module):
    """The cells that an encoder of grid regions finds, by the quickest form of its backbone."""

    def __init__(self, encoder: GridRegionsEncoder) -> None:
        super().__init__()
        self.config = encoder.config
        self.backbone = for_use(encoder.backbone.eval())

    def forward(self, pixels: Tensor) -> Regions:
        return grid_regions(self.backbone, self.config.backbone, pixels)


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


def look_once(towers: Mapping[str, nn.Module], parts: list[FeatureRows]) -> Sequence[FeatureRows | LockedRows]:
    """Each part's rows with what these say of them (`locked_inputs`); as they are where that is too much to keep."""
    total = sum(len(rows) for rows in parts)
    fitting = [name for name, tower in towers.items() if _bytes(tower, name, parts) <= MOST_BYTES]
    for name in towers:
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
        said.kind,
        tuple([part[one] for one in entry] for part in said.parts),
        None if said.pooled is None else said.pooled[entry],
        said.present[entry],
    )


def _bytes(tower: nn.Module, name: str, parts: list[FeatureRows]) -> float:
    """Of what is kept of all rows, by the first few."""
    few = range(min(8, len(parts[0])))
    first = _say(tower, name, parts[0], few)
    values = [value for part in first.parts for value in part]
    values += [] if first.pooled is None else [first.pooled]
    each = sum(value.numel() * value.element_size() for value in values) / len(few)
    return each * sum(len(_different(rows, name)[0]) for rows in parts)


@torch.no_grad()
def _say(tower: nn.Module, name: str, rows: FeatureRows, places: Sequence[int]) -> Said:
    batch = rows.batch(list(places), only=[name])
    present = batch.present[name]
    said: Tokens | Regions = tower(blank(rows.features.normalize(batch.inputs)[name], present))
    lengths = [int(real.nonzero().max()) + 1 for real in said.mask]
    padded = (said.sequence, said.mask) if isinstance(said, Tokens) else (said.features, said.boxes, said.mask)
    parts = tuple([one[:length].clone() for one, length in zip(part, lengths, strict=True)] for part in padded)
    return Said(type(said), parts, said.pooled if isinstance(said, Tokens) else None, present)


def _joined(batches: list[Said]) -> Said:
    pooled = [said.pooled for said in batches if said.pooled is not None]
    return Said(
        batches[0].kind,
        tuple([one for part in parts for one in part] for parts in zip(*(said.parts for said in batches), strict=True)),
        torch.cat(pooled) if pooled else None,
        torch.cat([said.present for said in batches]),
    )
