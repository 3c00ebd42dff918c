"""Which rows of a table a model with targets is measured on, and whether it was trained on some of them.

A run leaves `rows.csv` (row, split) and `table.json` beside its artifact: by them the rows that it kept apart for the
report are known again.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polymodal.config import read_yaml
from polymodal.data.manifest import Manifest
from polymodal.errors import ConfigError, DataError, did_you_mean

ROWS, STATE, RECIPE = "rows.csv", "table.json", "recipe.yaml"
SPLITS = ("test", "val", "train", "all")


class Chosen(NamedTuple):
    manifest: Manifest  # of the chosen rows
    split: str
    table_rows: int
    reason: str  # which rows these are, as people say it
    warnings: list[str]  # what makes the numbers better than they are


@dataclass(frozen=True)
class Trained:
    """What a run says of its table."""

    split_of: Mapping[int, str]  # row number -> train, val or test
    file: str  # the table, absolute
    stamp: str  # of the table as it was
    data: Mapping[str, Any]  # of the run's recipe


def choose_rows(
    artifact: str | Path | None,
    table: str | Path | Manifest,
    *,
    split: str | None,
    exclude: Mapping[str, Sequence[str]],
    images: str | Path | None,
) -> Chosen:
    """The rows to measure on: of the table that the model was trained on those kept apart, of another one all.

    Args:
        artifact: where the model came from; None: not known.
        split: test, val, train or all; or a value of the table's split column. None: as above.
        images: the folder of the pictures, if not the table's.

    Raises:
        ConfigError: a value to exclude is not in its column.
        DataError: the table cannot be read, there is no such split, or no row is left.
    """
    trained = _trained(artifact)
    name = table.source if isinstance(table, Manifest) else str(table)
    same = trained is not None and str(Path(name).resolve()) == trained.file
    if not isinstance(table, Manifest):
        own = trained.data if trained is not None and same else {}
        table = Manifest.read(table, images=images or own.get("images"), split_column=own.get("split"))
    if trained is not None and same:
        chosen = _of_training(trained, table, split)
    else:
        chosen = _of_another(table, split, _maybe_trained_on(artifact, name))
    if not exclude:
        return chosen
    kept = chosen.manifest.select(~_held(table, chosen.manifest, exclude))
    if not len(kept):
        raise DataError(f"{name}: none of {len(table)} rows is left by split={chosen.split}, exclude={dict(exclude)}")
    return chosen._replace(manifest=kept)


def _held(table: Manifest, chosen: Manifest, exclude: Mapping[str, Sequence[str]]) -> Any:
    table.holds(exclude)  # a value that only other rows have is no mistake
    there = {name: set(chosen.column(name).unique().to_pylist()) for name in exclude}
    within = {name: [value for value in values if value in there[name]] for name, values in exclude.items()}
    return chosen.holds({name: values for name, values in within.items() if values})


def _of_training(trained: Trained, table: Manifest, split: str | None) -> Chosen:
    splits = np.array([trained.split_of.get(row, "") for row in table.row_numbers.tolist()])
    counts = {name: int((splits == name).sum()) for name in ("test", "val", "train")}
    name = split or next((one for one in ("test", "val") if counts[one]), "all")
    if name == "all":
        mask = np.ones(len(table), bool)
    elif name in counts:
        mask = splits == name
    else:
        return _of_another(table, name, None)
    if not mask.any():
        listed = ", ".join(f"{one} ({count} rows)" for one, count in counts.items() if count)
        raise DataError(f'{table.source}: the run kept no rows for "{name}"; there are: {listed}; or split=all')
    reason = {
        "test": "the rows that were kept apart from training",
        "val": "the rows that training was validated on",
        "train": "the rows that it was trained on",
        "all": "all rows of the table",
    }[name]
    warnings = []
    if learned := int((splits[mask] == "train").sum()):
        warnings.append(
            f"{learned:,} of these {int(mask.sum()):,} rows were trained on: the numbers tell what the model has "
            "learned by heart too; --split test leaves them out"
        )
    elif name == "val":
        warnings.append(
            "these rows chose the best checkpoint and the temperatures: on new rows the numbers are a little lower"
        )
    if table.stamp != trained.stamp:
        warnings.append("the table has changed since training; which rows were trained on is told by their numbers")
    return Chosen(table.select(mask), name, len(table), reason, warnings)


def _of_another(table: Manifest, split: str | None, warning: str | None) -> Chosen:
    warnings = [warning] if warning else []
    if split is None or split == "all":
        return Chosen(table, "all", len(table), "all rows of the table", warnings)
    if table.split_column is None:
        hint = did_you_mean(split, SPLITS)
        raise DataError(
            f'{table.source}: no column says what is in split "{split}"{hint}; make one by `polymodal split`, or name '
            "the folder of the run that was trained on this table, which knows its rows"
        )
    return Chosen(table.split(split), split, len(table), f'rows of split "{split}"', warnings)


# ---------------------------------------------------------------------------------------------------------------------
# What the run has left


def _trained(artifact: str | Path | None) -> Trained | None:
    folder = _run_folder(artifact)
    if folder is None:
        return None
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        with (folder / ROWS).open(encoding="utf-8", newline="") as lines:
            split_of = {int(line["row"]): line["split"] for line in csv.DictReader(lines)}
        return Trained(split_of, state["file"], state["stamp"], _data(folder / RECIPE))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{folder}: {ROWS} and {STATE} cannot be read ({error}), so which rows were trained on is not known; name "
            f"{folder / 'artifact'} elsewhere, or train again"
        ) from None


def _run_folder(artifact: str | Path | None) -> Path | None:
    """The run that the artifact stands in, if that left a list of its rows."""
    if artifact is None:
        return None
    path = Path(artifact)
    for folder in (path, path.resolve().parent):
        if (folder / ROWS).is_file() and (folder / "artifact").is_dir():
            return folder
    return None


def _maybe_trained_on(artifact: str | Path | None, table: str) -> str | None:
    """A warning where the table bears the name of the one that the model was trained on."""
    if artifact is None:
        return None
    path = Path(artifact)
    folder = path / "artifact" if (path / "artifact").is_dir() else path
    trained_on = _data(folder / RECIPE).get("table")
    if not isinstance(trained_on, str) or Path(trained_on).name != Path(table).name:
        return None
    return (
        f"the model was trained on a table of this name ({trained_on}): rows that it has seen make the numbers too "
        "good; measure the folder of its run, which knows them"
    )


def _data(recipe: Path) -> Mapping[str, Any]:
    try:
        data = read_yaml(recipe).get("data") if recipe.is_file() else None
    except ConfigError:
        return {}
    return data if isinstance(data, Mapping) else {}
