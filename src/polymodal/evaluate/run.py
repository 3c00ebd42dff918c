"""`evaluate`: which tasks can be done on this table, and doing them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from polymodal.data.manifest import Manifest
from polymodal.engine import Engine, load
from polymodal.errors import ConfigError, DataError, did_you_mean
from polymodal.evaluate import classify, retrieve
from polymodal.evaluate.classify import Labeled
from polymodal.evaluate.report import Report, thumbnails
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
from polymodal.version import __version__

TASKS = ("retrieval", "zero-shot", "probe", "knn")
MOST_SUBSETS = 50


def evaluate(
    artifact: str | Path | Engine,
    table: str | Path | Manifest,
    *,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    split: str | None = None,
    exclude: Mapping[str, Sequence[str]] | None = None,
    tasks: Iterable[str] | None = None,
    label: str | None = None,
    templates: Sequence[str] | None = None,
    candidates: int | None = None,
    by: str | None = None,
    k: Sequence[int] = (1, 5, 10),
    seed: int = 0,
    out: str | Path | None = None,
    lang: str = "en",
    progress: bool = False,
) -> Report:
    """Measure a model on a table.

    Args:
        artifact: a folder, whatever `polymodal.load` takes, or an engine.
        table: a file or folder, whatever `Manifest.read` takes, or a manifest.
        image: the column of pictures, and
        text: the column or columns of captions or names, where they are not to be found by themselves.
        split: only rows of this split. The probe and k-NN learn from the splits train and val.
        exclude: column -> values; rows that hold one of them are left aside everywhere.
        tasks: of "retrieval", "zero-shot", "probe", "knn". None: all that the table allows; why the others were not
            done stands in the report.
        label: the column of classes. None: the table's only category column.
        templates: sentences with {} for zero-shot; None: English or Chinese ones by the label's letters.
        candidates: each query is asked among so many items, its own and others drawn at random, filled up from the
            other rows of the table where need be. None: among all chosen rows.
        by: a column; retrieval is also reported for each of its values.
        seed: of candidates, bootstrap and examples.
        out: a folder for report.json and report.html.
        lang: "en" or "zh", of report.html.

    Raises:
        ConfigError: a column, split, task or value is not known, or a task that was asked for is not possible.
        DataError: no row can be read, or the rows do not allow what was asked for.
    """
    asked = _asked(tasks)
    if not k or min(k) < 1:
        raise ConfigError(f"k must be 1 or more, got {list(k)}")
    if candidates is not None and candidates < 2:
        raise ConfigError(f"candidates must be 2 or more, got {candidates}")
    engine = artifact if isinstance(artifact, Engine) else load(artifact)
    manifest = table if isinstance(table, Manifest) else Manifest.read(table, image=image, text=text)
    if manifest.image is None:
        raise DataError(f"{manifest.source}: no column holds pictures; name it with image=COLUMN (--image)")
    for name in filter(None, (label, by)):
        column(manifest, name)
    work = _Work(
        engine, manifest, split=split, exclude=exclude or {}, candidates=candidates, seed=seed, progress=progress
    )

    def retrieval() -> dict[str, Any]:
        return _retrieval(work, tuple(sorted(set(k))), candidates, by, seed)

    def zero_shot() -> dict[str, Any]:
        return classify.zero_shot(engine, work.test(work.label(label)), templates, seed)

    def probe() -> dict[str, Any]:
        name = work.label(label)
        return classify.linear_probe(work.train(name), work.val(name), work.test(name), seed)

    def knn() -> dict[str, Any]:
        name = work.label(label)
        return classify.nearest_neighbors(work.train(name), work.test(name), seed)

    done, skipped = _run(dict(zip(TASKS, (retrieval, zero_shot, probe, knn), strict=True)), asked)
    data = {
        "artifact": {"name": engine.name, "checksum": engine.checksum},
        "table": {"path": str(manifest.source), "rows": len(manifest)},
        "settings": {
            "image": manifest.image, "text": list(manifest.text), "split": split, "label": label,
            "exclude": {name: list(values) for name, values in work.exclude.items()}, "candidates": candidates,
            "by": by, "k": list(k), "seed": seed, "interval": "bootstrap over queries, 1000 resamples, 95 %",
        },
        "versions": {"polymodal": __version__} | {name: version(name) for name in ("torch", "numpy", "scikit-learn")},
        "rows": {"chosen": len(work.rows), "left_out": work.rows_left_out()},
        "tasks": done,
        "skipped": skipped,
    }  # fmt: skip
    report = Report(data, thumbnails(manifest, done.get("retrieval")))
    if out is not None:
        report.write(out, lang)
    return report


class _Work:
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


def _retrieval(work: _Work, k: tuple[int, ...], candidates: int | None, by: str | None, seed: int) -> dict[str, Any]:
    values = None if by is None else column(work.manifest, by)
    if values is not None and len(subsets := {values[row] for row in work.rows}) > MOST_SUBSETS:
        raise ConfigError(f'by "{by}" has {len(subsets)} values, wanted {MOST_SUBSETS} at most')
    texts = work.texts()
    image, text, pairs = retrieve.sides(work.manifest, work.pictures(), texts, work.rows, work.fill, values)
    return {
        "image_to_text": retrieve.one_way(image, text, pairs, k=k, candidates=candidates, seed=seed),
        "text_to_image": retrieve.one_way(text, image, pairs.flip(1), k=k, candidates=candidates, seed=seed),
        "cosines": retrieve.cosine_histograms(image, text, pairs, seed),
        "filled_up_with": len(work.fill),
    }


def _run(
    possible: Mapping[str, Callable[[], dict[str, Any]]], asked: Sequence[str] | None
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Results by task, and the tasks that nobody named and that this table does not allow."""
    done, skipped = {}, []
    for name in asked or TASKS:
        try:
            done[name] = possible[name]()
        except (ConfigError, DataError) as error:
            if asked:
                raise
            skipped.append({"task": name, "reason": str(error)})
    if not done:
        raise DataError(
            "evaluate: nothing could be measured:\n" + "\n".join(sorted({one["reason"] for one in skipped}))
        )
    return done, skipped


def _asked(tasks: Iterable[str] | None) -> list[str] | None:
    if tasks is None:
        return None
    asked = list(dict.fromkeys([tasks] if isinstance(tasks, str) else tasks))
    for name in asked:
        if name not in TASKS:
            raise ConfigError(f'no task is named "{name}"{did_you_mean(name, TASKS)}; known: {", ".join(TASKS)}')
    if not asked:
        raise ConfigError(f"tasks: wanted one or more of {', '.join(TASKS)}, got none")
    return asked
