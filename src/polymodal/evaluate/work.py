"""What the tasks of one evaluation share: the chosen rows and their vectors, and what had to be left out."""

from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.data.manifest import Manifest
from polymodal.engine import Engine
from polymodal.errors import ConfigError, DataError
from polymodal.evaluate.classify import Labeled
from polymodal.evaluate.vectors import (
    LeftOut,
    Pictures,
    Rows,
    Texts,
    choose_rows,
    column,
    embed_pictures,
    embed_texts,
    rows_to_fill_up,
)


class Work:
    """The chosen rows, embedded when a task first needs them and then kept."""

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        *,
        split: str | None,
        exclude: Mapping[str, Sequence[str]],
        candidates: int | None,
        seed: int,
        progress: bool,
    ) -> None:
        self.engine, self.manifest, self.exclude, self.progress = engine, manifest, exclude, progress
        if manifest.image is None:
            raise DataError(f"{manifest.source}: no column holds pictures; name it with image=COLUMN (--image)")
        self.rows = choose_rows(manifest, split, exclude)
        self.fill: Rows = []
        if candidates is not None and manifest.text:
            allowed = choose_rows(manifest, None, exclude)
            self.fill = rows_to_fill_up(manifest, self.rows, allowed, candidates, seed)
        self.left_out: set[LeftOut] = set()
        self._pictures: dict[str, Pictures] = {}

    def pictures(self, which: str = "chosen") -> Pictures:
        """Of the chosen rows and those that fill up, or of a split to learn from."""
        if which not in self._pictures:
            rows = [*self.rows, *self.fill] if which == "chosen" else choose_rows(self.manifest, which, self.exclude)
            if which != "chosen" and set(rows) & set(self.rows):
                raise ConfigError(
                    f"probe and knn learn from the split {which}: test on another, for instance split=test (--split)"
                )
            found, left_out = embed_pictures(self.engine, self.manifest, rows, self.progress)
            self.left_out.update(left_out)
            self._pictures[which] = found
        return self._pictures[which]

    def texts(self) -> Texts:
        if not self.manifest.text:
            raise DataError(f"{self.manifest.source}: no column holds texts; name it with text=COLUMN (--text)")
        found, left_out = embed_texts(self.engine, self.manifest, [*self.rows, *self.fill], self.progress)
        self.left_out.update(left_out)
        return found

    def label(self, asked: str | None) -> str:
        """The column of classes: the one asked for, else the only one of categories."""
        found = [one.name for one in self.manifest.columns if one.modality == "category"]
        if asked is None and len(found) != 1:
            came = f"several columns hold categories ({', '.join(found)})" if found else "no column holds categories"
            raise ConfigError(
                f"{self.manifest.source}: {came}; name the one to classify by with label=COLUMN (--label)"
            )
        return asked if asked is not None else found[0]

    def test(self, label: str) -> Labeled:
        within = set(self.rows)  # not those that only fill up
        return self._labeled(label, self.pictures(), within)

    def train(self, label: str) -> Labeled:
        train = self.pictures("train")
        return self._labeled(label, train, set(train.rows))

    def val(self, label: str) -> Labeled | None:
        """Of the split val, where there is one and it is not what is measured."""
        try:
            rows = set(choose_rows(self.manifest, "val", self.exclude))
        except DataError:
            return None
        return None if rows & set(self.rows) else self._labeled(label, self.pictures("val"), rows)

    def _labeled(self, label: str, pictures: Pictures, within: set[int]) -> Labeled:
        names = column(self.manifest, label)
        used = [place for place, row in enumerate(pictures.rows) if row in within]
        named = [place for place in used if names[pictures.rows[place]] is not None]
        self.left_out |= {LeftOut(pictures.rows[place], label, "has no label") for place in set(used) - set(named)}
        return Labeled(pictures.vectors[named], [str(names[pictures.rows[place]]) for place in named])

    def rows_left_out(self) -> list[dict[str, Any]]:
        """By row as people count them in the source; rows that the manifest could not read stand among them."""
        numbers = self.manifest.row_numbers
        found = [{"row": int(numbers[row]), "column": name, "reason": reason} for row, name, reason in self.left_out]
        found += [{"row": one.row, "column": one.column, "reason": one.reason} for one in self.manifest.faults]
        return sorted(found, key=lambda one: (one["row"], one["column"]))
