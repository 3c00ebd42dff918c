"""`evaluate` for a model of pictures and texts: which tasks can be done on this table, and doing them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from polymodal.data.manifest import Manifest
from polymodal.engine import Engine
from polymodal.errors import ConfigError, DataError, did_you_mean
from polymodal.evaluate import classify, retrieve
from polymodal.evaluate.report import Report, thumbnails
from polymodal.evaluate.vectors import column
from polymodal.evaluate.words import LANGUAGES
from polymodal.evaluate.work import Work
from polymodal.version import __version__

TASKS = ("retrieval", "zero-shot", "probe", "knn")
MOST_SUBSETS = 40


def evaluate_pairs(
    engine: Engine,
    table: str | Path | Manifest,
    *,
    image: str | None = None,
    images: str | Path | None = None,
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
    """Measure a model of pictures and texts on a table.

    Args:
        table: a file or folder, whatever `Manifest.read` takes, or a manifest.
        image: the column of pictures, and
        text: the column or columns of captions or names, where they are not to be found by themselves.
        images: the folder of the pictures, if not the table's.
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
    _refuse_nonsense(k, candidates, lang)
    manifest = table if isinstance(table, Manifest) else Manifest.read(table, image=image, text=text, images=images)
    work = Work(
        engine, manifest, split=split, exclude=exclude or {}, candidates=candidates, seed=seed, progress=progress
    )
    _refuse_columns(work, label, by)
    work.pictures()  # every task needs them: a table without any ends here

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
        "notes": [*manifest.notes, *engine.notes, *_notes(done, k, candidates)],
    }  # fmt: skip
    report = Report(data, thumbnails(manifest, done.get("retrieval")))
    if out is not None:
        report.write(out, lang)
    return report


def _refuse_nonsense(k: Sequence[int], candidates: int | None, lang: str) -> None:
    if not k or min(k) < 1:
        raise ConfigError(f"k must be 1 or more, got {list(k)}")
    if candidates is not None and candidates < 2:
        raise ConfigError(f"candidates must be 2 or more, got {candidates}")
    if lang not in LANGUAGES:
        raise ConfigError(f'lang must be one of {", ".join(LANGUAGES)}, got "{lang}"')


def _refuse_columns(work: Work, label: str | None, by: str | None) -> None:
    if label is not None:
        column(work.manifest, label)
    if by is not None:
        values = column(work.manifest, by)
        count = len({values[row] for row in work.rows})
        if count > MOST_SUBSETS:
            raise ConfigError(f'by "{by}" has {count} values, wanted {MOST_SUBSETS} at most')


def _retrieval(work: Work, k: tuple[int, ...], candidates: int | None, by: str | None, seed: int) -> dict[str, Any]:
    values = None if by is None else column(work.manifest, by)
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


def _notes(done: Mapping[str, Any], k: Sequence[int], candidates: int | None) -> list[str]:
    """What is otherwise than was asked for."""
    notes = []
    for way in retrieve.WAYS if "retrieval" in done else ():
        there = done["retrieval"][way]["candidates"]
        if candidates is not None and there < candidates:
            notes.append(f"{way}: {candidates} candidates were asked for, the table has {there}")
        if beyond := [f"R@{n}" for n in sorted(set(k)) if n > there]:
            notes.append(f"{way}: {', '.join(beyond)} left out, there are {there} candidates only")
    for task in ("probe", "knn"):
        if unseen := done.get(task, {}).get("classes_not_in_train"):
            notes.append(f"{task}: train has no row of {', '.join(unseen)}; all rows of these count as wrong")
    if not done.get("probe", {}).get("converged", True):
        notes.append(f"probe: not converged after {classify.STEPS} steps")
    return notes


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
