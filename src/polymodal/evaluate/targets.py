"""`evaluate` for a model with several inputs: every target of every chosen row compared with what is known."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.feature_rows import FeatureRows, columns_of
from polymodal.data.manifest import Manifest
from polymodal.data.source import Rows
from polymodal.data.values import as_strings
from polymodal.engine import Predictor
from polymodal.engine.predict import Seen, faults_of, notes_of
from polymodal.errors import ConfigError, DataError
from polymodal.evaluate.chosen import Chosen, choose_rows
from polymodal.evaluate.measured import Known, measure, measure_part, undefined
from polymodal.evaluate.misses import preview, worst
from polymodal.evaluate.targets_report import TargetsReport
from polymodal.evaluate.words import LANGUAGES
from polymodal.version import __version__

MOST_SUBSETS = 40


def evaluate_targets(
    predictor: Predictor,
    table: str | Path | Manifest,
    *,
    artifact: str | Path | None = None,
    images: str | Path | None = None,
    split: str | None = None,
    exclude: Mapping[str, Sequence[str]] | None = None,
    by: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    lang: str = "en",
    progress: bool = False,
) -> TargetsReport:
    """Measure a model of several inputs on a table.

    Args:
        artifact: where the model came from; of a run's folder the rows are known that it was not trained on.
        images: the folder of the pictures, if not the table's.
        split: test, val, train or all, or a value of the table's split column. None: of the table that the model was
            trained on the rows kept apart for the report, of another one all.
        exclude: column -> values; rows that hold one of them are left aside.
        by: a column; metrics are also told for each of its values.
        seed: of the bootstrap, and of the points that are drawn.
        out: a folder for report.json and report.html.
        lang: "en" or "zh", of report.html.

    Raises:
        ArtifactError: the model has no targets.
        ConfigError: a value to exclude, `by` or `lang` cannot be used.
        DataError: the table cannot be read, or has nothing that the model reads or predicts.
    """
    if lang not in LANGUAGES:
        raise ConfigError(f'lang must be one of {", ".join(LANGUAGES)}, got "{lang}"')
    chosen, rows, seen = look(
        predictor, table, artifact=artifact, images=images, split=split, exclude=exclude or {}, by=by, progress=progress
    )
    known = known_of(predictor, seen)
    subsets = {} if by is None else _subsets(chosen.manifest, by)
    results, notes = {}, []
    for name, one in known.items():
        result = measure(one, seed)
        if not result["rows"]:
            notes.append(f"{name}: not measured, no row of {len(rows)} has a value that the model knows")
            continue
        result["misses"] = worst(name, one, rows, predictor)
        result["by"] = {value: measure_part(one.at(places), seed) for value, places in subsets.items()}
        results[name] = result
        notes += undefined(name, result, one.target.classes)
    if not results:
        raise DataError(f"{chosen.manifest.source}: {'; '.join(notes)}: there is nothing to compare with")
    shown, pictures = preview(rows, [miss["row"] for result in results.values() for miss in result["misses"]])
    data = {
        "artifact": {"name": predictor.name, "checksum": predictor.checksum},
        "table": {"path": str(chosen.manifest.source), "rows": chosen.table_rows},
        "settings": {
            "split": chosen.split, "exclude": {name: list(values) for name, values in (exclude or {}).items()},
            "by": by, "seed": seed, "interval": "bootstrap over rows, 1000 resamples, 95 %",
        },
        "versions": {"polymodal": __version__} | {name: version(name) for name in ("torch", "numpy", "scikit-learn")},
        "rows": {"chosen": len(rows), "which": chosen.reason},
        "inputs": inputs_of(predictor, seen),
        "targets": results,
        "shown_rows": shown,
        "warnings": chosen.warnings,
        "notes": [*notes_of(rows), *predictor.notes, *notes],
        "faults": [fault._asdict() for fault in faults_of(rows)],
    }  # fmt: skip
    report = TargetsReport(data, pictures)
    if out is not None:
        report.write(out, lang)
    return report


def look(
    predictor: Predictor,
    table: str | Path | Manifest,
    *,
    artifact: str | Path | None,
    images: str | Path | None,
    split: str | None,
    exclude: Mapping[str, Sequence[str]],
    by: str | None = None,
    progress: bool,
) -> tuple[Chosen, FeatureRows, Seen]:
    """The chosen rows, and what the model says of them; arguments as in `evaluate_targets`."""
    predictor.refuse_without_targets()
    chosen = choose_rows(artifact, table, split=split, exclude=exclude, images=images)
    _refuse_without_columns(predictor, chosen.manifest)
    if by is not None:
        _subsets(chosen.manifest, by)  # what is asked wrongly is said before the work
    rows = predictor.rows(chosen.manifest, with_targets=True)
    return chosen, rows, predictor.see(rows, progress=progress)


def known_of(predictor: Predictor, seen: Seen, outputs: Mapping[str, Any] | None = None) -> dict[str, Known]:
    """By target what the model says and what is known; `outputs` in place of those that were seen."""
    said = seen.outputs if outputs is None else outputs
    return {
        name: Known(target, said[name], seen.targets[name], seen.known[name])
        for name, target in predictor.features.targets.items()
    }


def _refuse_without_columns(predictor: Predictor, manifest: Manifest) -> None:
    there = manifest.kinds()
    targets = {name: columns_of(target) for name, target in predictor.features.targets.items()}
    if not any(column in there for columns in targets.values() for column in columns):
        wanted = ", ".join(column for columns in targets.values() for column in columns)
        raise DataError(
            f"{manifest.source}: to measure, the true values are needed: no column is named {wanted}; there are: "
            f"{', '.join(there)}. `polymodal predict` does without them"
        )


def inputs_of(predictor: Predictor, seen: Seen) -> dict[str, dict[str, Any]]:
    """Of each input its kind, its columns, and in which share of the rows it is there."""
    return {
        name: {
            "kind": config.kind,
            "columns": list(columns_of(config)),
            "present": float(seen.present[name].mean()),
        }
        for name, config in predictor.features.inputs.items()
    }


def _subsets(manifest: Manifest, by: str) -> dict[str, Any]:
    """Value of the column -> places of its rows, the most frequent first; "" where the cell is empty."""
    manifest.column(by)  # raises if it is not there
    values = np.array([value or "" for value in as_strings(Rows(manifest).column(by)).to_pylist()])
    kinds, counts = np.unique(values, return_counts=True)
    if len(kinds) > MOST_SUBSETS:
        raise ConfigError(f'by "{by}" has {len(kinds)} values, wanted {MOST_SUBSETS} at most')
    return {str(kinds[n]): np.flatnonzero(values == kinds[n]) for n in np.argsort(-counts, kind="stable")}
