"""The rows of a manifest as vectors: which rows, each different picture and text once, and what could not be read.

I pictures; T texts; P pairs of a picture and a text that belong together; D width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymodal.data.manifest import Manifest
from polymodal.engine import Engine
from polymodal.engine.progress import progress_bar
from polymodal.errors import DataError

Vectors = NDArray[np.float32]
Rows = list[int]

_ROWS_AT_ONCE = 1024  # so that a table whose pictures are bytes is never held whole


class LeftOut(NamedTuple):
    row: int  # its place in the manifest
    column: str
    reason: str


@dataclass(frozen=True)
class Pictures:
    vectors: Vectors  # (I, D), unit length
    rows: Rows  # (I,), the first manifest row of each
    of_row: dict[int, int]  # manifest row -> picture


@dataclass(frozen=True)
class Texts:
    vectors: Vectors  # (T, D), unit length
    texts: list[str]  # (T,), all different
    of_row: dict[int, list[int]]  # manifest row -> its captions


def choose_rows(manifest: Manifest, split: str | None, exclude: Mapping[str, Sequence[str]]) -> Rows:
    """Places of the rows of the split whose columns hold none of the values to exclude.

    Raises:
        ConfigError: a value to exclude is not in its column.
        DataError: there is no such column or split, or no row is left.
    """
    chosen = np.ones(len(manifest), bool)
    if split is not None:
        chosen = np.isin(manifest.row_numbers, manifest.split(split).row_numbers)
    chosen &= ~manifest.holds(exclude)
    if not chosen.any():
        raise DataError(
            f"{manifest.source}: none of {len(manifest)} rows is left by split={split}, exclude={dict(exclude)}"
        )
    return [int(row) for row in chosen.nonzero()[0]]


def column(manifest: Manifest, name: str) -> list[str | None]:
    """The values of a column as text; None where there is nothing.

    Raises:
        DataError: there is no such column.
    """
    values = manifest.column(name).to_pylist()
    return [None if value is None or value == "" else str(value) for value in values]


def embed_pictures(engine: Engine, manifest: Manifest, rows: Rows, progress: bool) -> tuple[Pictures, list[LeftOut]]:
    """Each different picture of `rows` once, and the rows whose picture cannot be read."""
    rows_of: dict[str, Rows] = {}
    left_out = []
    for row in rows:
        try:
            rows_of.setdefault(manifest.image_key(row), []).append(row)
        except DataError as error:  # the cell is empty
            left_out.append(LeftOut(row, str(manifest.image), str(error)))
    firsts = [same[0] for same in rows_of.values()]

    def embed(part: Rows) -> Any:
        pictures = [manifest.image_reference(row) for row in part]
        return engine.embed(images=pictures, root=manifest.root, on_error="report")

    vectors, good, faults = _in_parts(embed, firsts, "embedding pictures", progress)
    by_place = list(rows_of.values())
    of_row = {row: place for place, old in enumerate(good) for row in by_place[old]}
    left_out += [LeftOut(row, str(manifest.image), reason) for old, reason in faults for row in by_place[old]]
    if not good:
        raise DataError(
            f"{manifest.source}: none of {len(rows)} pictures can be read, the first because: {left_out[0].reason}"
        )
    return Pictures(vectors, [firsts[old] for old in good], of_row), left_out


def embed_texts(engine: Engine, manifest: Manifest, rows: Rows, progress: bool) -> tuple[Texts, list[LeftOut]]:
    """Each different text of `rows` once, and the rows with a text that cannot be used."""
    captions = {row: list(dict.fromkeys(manifest.captions(row))) or [""] for row in rows}
    texts = list(dict.fromkeys(text for own in captions.values() for text in own))
    vectors, good, faults = _in_parts(
        lambda part: engine.embed(texts=part, on_error="report"), texts, "embedding texts", progress
    )
    place = {texts[old]: new for new, old in enumerate(good)}
    bad = {texts[old]: reason for old, reason in faults}
    of_row = {row: [place[text] for text in own if text in place] for row, own in captions.items()}
    left_out = [
        LeftOut(row, ", ".join(manifest.text), bad[text])
        for row, own in captions.items()
        for text in own
        if text in bad
    ]
    return Texts(vectors, [texts[old] for old in good], of_row), left_out


def _in_parts(
    embed: Callable[[Any], Any], items: Sequence[Any], label: str, progress: bool
) -> tuple[Vectors, list[int], list[tuple[int, str]]]:
    """Vectors of the good items, their places, and the places of the others with the reason."""
    vectors, good, faults = [], [], []
    with progress_bar(label, len(items), progress) as advance:
        for low in range(0, len(items), _ROWS_AT_ONCE):
            part = items[low : low + _ROWS_AT_ONCE]
            found = embed(part)
            vectors.append(found.vectors)
            good += [low + int(place) for place in found.rows]
            faults += [(low + fault.place, fault.reason) for fault in found.faults]
            advance(len(part))
    return np.concatenate(vectors), good, faults


def rows_to_fill_up(manifest: Manifest, chosen: Rows, allowed: Iterable[int], candidates: int, seed: int) -> Rows:
    """Other rows, drawn at random, until pictures and texts are `candidates` each; fewer when the table has no more.

    A row is taken only when its picture and all its texts are new: what it brings is wrong for every query.
    """
    pictures = {_key(manifest, row) for row in chosen}
    texts = {text for row in chosen for text in manifest.captions(row)}
    others = sorted(set(allowed) - set(chosen))
    fill: Rows = []
    for place in np.random.default_rng(seed).permutation(len(others)):
        if min(len(pictures), len(texts)) >= candidates:
            break
        row, own = others[place], set(manifest.captions(others[place]))
        if own and not own & texts and (key := _key(manifest, row)) is not None and key not in pictures:
            fill.append(row)
            pictures.add(key)
            texts |= own
    return fill


def _key(manifest: Manifest, row: int) -> str | None:
    try:
        return manifest.image_key(row)
    except DataError:  # `embed_pictures` reports it
        return None
