"""What the columns of a table go through, learned from its training rows; and which columns to read, for a start.

Nothing but the rows that are handed in has a say: hand in training rows only. Shapes: N rows; L steps; C channels.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from polymodal.data.cell_files import is_empty, reference
from polymodal.data.columns import Column
from polymodal.data.feature_rows import columns_of
from polymodal.data.manifest import Manifest
from polymodal.data.regions import RegionFile, read_regions
from polymodal.data.series import read_series
from polymodal.data.targets import words_column
from polymodal.data.values import as_lists, as_numbers, as_strings, is_list, mean_and_std
from polymodal.errors import DataError
from polymodal.features import (
    AudioInput,
    CategoryColumn,
    Features,
    ImageInput,
    InputConfig,
    NumberColumn,
    RecordInput,
    RegionsInput,
    SeriesInput,
    Target,
    TextInput,
)
from polymodal.preprocess import AudioPreprocess, ImagePreprocess, TextPreprocess

MAX_VALUES = 1000  # of a category
SAMPLE = 256  # files that are looked into
LEFT_OUT = {
    "id": "a name of the row says nothing about others",
    "url": "an address is no content",
    "split": "it says which rows train",
    "empty": "it has no value",
}


class InputPlan(NamedTuple):
    """An input before it has seen the training rows."""

    kind: Literal["image", "text", "record", "series", "audio", "regions"]
    columns: tuple[str, ...]
    reason: str  # why it is read, and so
    preprocess: ImagePreprocess | TextPreprocess | AudioPreprocess | None = None  # None: the usual one of the kind
    pick: bool = False  # see `TextInput`


class Inferred(NamedTuple):
    inputs: dict[str, InputPlan]
    left_out: dict[str, str]  # by column, why


class Fitted(NamedTuple):
    features: Features
    notes: tuple[str, ...]  # what was left out, capped or missing


# ---------------------------------------------------------------------------------------------------------------------
# Which columns to read


def infer_inputs(manifest: Manifest, targets: Mapping[str, Target], leave: Sequence[str] = ()) -> Inferred:
    """Every column that can say something about the targets, in inputs by what it holds.

    Pictures, sounds, series and regions are an input each; texts are one together, and so are numbers and categories.

    Raises:
        DataError: no column is left.
    """
    taken = {column: f'it is the target "{name}"' for name, target in targets.items() for column in target.columns}
    taken |= dict.fromkeys(leave, "it is left aside, as asked")
    inputs: dict[str, InputPlan] = {}
    for target in targets.values():
        if (words := words_column(manifest, target)) is not None:
            inputs[target.text] = InputPlan("text", (words,), "words that have labels")
    used = {column for plan in inputs.values() for column in plan.columns}
    left_out = {column.name: why for column in manifest.columns if (why := taken.get(column.name) or _useless(column))}
    free = [column for column in manifest.columns if column.name not in left_out and column.name not in used]
    for kind in ("image", "audio", "series", "regions"):
        found = [column for column in free if column.modality == kind]
        for column in found:
            name = kind if len(found) == 1 else f"{kind}_{column.name}"
            inputs[name] = InputPlan(kind, (column.name,), column.reason)
    texts = [column for column in free if column.modality in ("text", "labels")]
    if texts:
        inputs["text" if "text" not in inputs else "more_text"] = _text_plan(manifest, texts)
    record = [column for column in free if column.modality in ("number", "category", "date")]
    if record:
        counts = Counter("categories" if column.modality == "category" else "numbers" for column in record)
        reason = ", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items(), reverse=True))
        inputs["record"] = InputPlan("record", tuple(column.name for column in record), reason)
    if not inputs:
        whys = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise DataError(f"{manifest.source}: no column is left to learn from ({whys}); add one, or name the inputs")
    return Inferred(inputs, left_out)


def _useless(column: Column) -> str | None:
    if column.modality in LEFT_OUT:
        return f"{LEFT_OUT[column.modality]} ({column.reason})"
    return column.reason if column.modality == "other" else None


def _text_plan(manifest: Manifest, texts: Sequence[Column]) -> InputPlan:
    names = tuple(column.name for column in texts)
    if len(names) > 1:
        return InputPlan("text", names, 'texts, read as lines of "name: text"')
    column = manifest.column(names[0])
    cells = as_lists(column.slice(0, SAMPLE)) if is_list(column.type) and texts[0].modality == "text" else []
    captions = [text for cell in cells for text in cell or ()]
    if captions and sum(" " in text or len(text) > 8 for text in captions) > len(captions) / 2:
        return InputPlan("text", names, "lists of captions, of which one is read at a time", pick=True)
    return InputPlan("text", names, texts[0].reason)


# ---------------------------------------------------------------------------------------------------------------------
# What they go through


def fit_features(
    manifest: Manifest, inputs: Mapping[str, InputPlan | InputConfig], targets: Mapping[str, Target]
) -> Fitted:
    """Scales, values and widths of the training rows.

    Args:
        manifest: the training rows, and no others.
        inputs: by the encoder's name; one that is a config already is taken as it is.
        targets: by the head's name, see `targets.infer_target`.

    Raises:
        DataError: a column does not exist, is input and target at once, or no input is left.
    """
    notes: list[str] = []
    fitted: dict[str, InputConfig] = {}
    for name, plan in inputs.items():
        columns = plan.columns if isinstance(plan, InputPlan) else columns_of(plan)
        _refuse_targets(manifest, name, columns, targets)
        config = _fit(manifest, plan, notes) if isinstance(plan, InputPlan) else plan
        if config is None:
            notes.append(f'input "{name}" is left out: nothing of {", ".join(columns)} can be used')
        else:
            fitted[name] = config
    targets = {name: _with_text(manifest, target, fitted) for name, target in targets.items()}
    if not fitted:
        raise DataError(f"{manifest.source}: no input is left to learn from; {'; '.join(notes) or 'name one'}")
    return Fitted(Features(inputs=fitted, targets=targets), tuple(notes))


def _with_text(manifest: Manifest, target: Target, inputs: Mapping[str, InputConfig]) -> Target:
    """A tokens target with the name of the input that its words are."""
    if (words := words_column(manifest, target)) is None:
        return target
    for name, config in inputs.items():
        if isinstance(config, TextInput) and config.columns == (words,):
            return target.model_copy(update={"text": name})
    raise DataError(
        f'{manifest.source}: target "{target.columns[0]}" labels the words of "{words}", which no text input reads '
        "alone; add a text input of this column only"
    )


def _refuse_targets(manifest: Manifest, name: str, columns: Sequence[str], targets: Mapping[str, Target]) -> None:
    for column in columns:
        manifest.column(column)  # raises if it is not there
        for target, config in targets.items():
            if column in config.columns:
                raise DataError(
                    f'{manifest.source}: column "{column}" is the target "{target}" and part of the input "{name}", '
                    "which would give the answer away; leave it out of one of them"
                )


def _fit(manifest: Manifest, plan: InputPlan, notes: list[str]) -> InputConfig | None:
    settings: dict[str, Any] = {} if plan.preprocess is None else {"preprocess": plan.preprocess}
    match plan.kind:
        case "image":
            return ImageInput(column=plan.columns[0], **settings)
        case "text":
            return TextInput(columns=plan.columns, pick=plan.pick, **settings)
        case "audio":
            return AudioInput(column=plan.columns[0], **settings)
        case "record":
            return _fit_record(manifest, plan.columns, notes)
        case "series":
            return _fit_series(manifest, plan.columns[0], notes)
        case "regions":
            return _fit_regions(manifest, plan.columns[0], notes)


def _fit_record(manifest: Manifest, names: Sequence[str], notes: list[str]) -> RecordInput | None:
    modality = {column.name: column.modality for column in manifest.columns}
    numbers, categories = [], []
    for name in names:
        if modality[name] in ("number", "date"):
            numbers.append(_fit_number(manifest, name, notes))
        else:
            categories.append(_fit_category(manifest, name, notes))
    record = RecordInput(numbers=tuple(filter(None, numbers)), categories=tuple(filter(None, categories)))
    return record if record.numbers or record.categories else None


def _fit_number(manifest: Manifest, name: str, notes: list[str]) -> NumberColumn | None:
    values, refused = as_numbers(manifest.column(name))
    known = values[~np.isnan(values)]
    if refused.any():
        notes.append(f"{name}: {refused.sum()} values are no finite numbers and count as missing")
    if len(known) == 0:
        notes.append(f"{name}: left out, no training row has a number")
        return None
    mean, std = mean_and_std(known)
    if std == 0:
        notes.append(f"{name}: left out, it is {known[0]:g} in every training row that has it")
        return None
    if missing := len(values) - len(known) - int(refused.sum()):
        notes.append(f"{name}: {missing} of {len(values)} training rows have no value")
    return NumberColumn(name=name, mean=mean, std=std)


def _fit_category(manifest: Manifest, name: str, notes: list[str]) -> CategoryColumn | None:
    strings = as_strings(manifest.column(name))
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(strings.drop_null()).to_pylist()}
    values = sorted(counts, key=lambda value: (-counts[value], value))
    if not values or (len(values) == 1 and strings.null_count == 0):
        what = f'it is "{values[0]}" in every training row' if values else "no training row has a value"
        notes.append(f"{name}: left out, {what}")
        return None
    if len(values) > MAX_VALUES:
        rows = sum(counts[value] for value in values[MAX_VALUES:])
        notes.append(
            f"{name}: the {MAX_VALUES} most frequent of {len(values)} values are known; the others ({rows} rows) count "
            "as unseen"
        )
    return CategoryColumn(name=name, values=tuple(values[:MAX_VALUES]))


def _fit_series(manifest: Manifest, name: str, notes: list[str]) -> SeriesInput | None:
    found = _sample(manifest, name, read_series, notes)
    if not found:
        return None
    channels = Counter(steps.shape[1] for steps in found).most_common(1)[0][0]
    steps = np.concatenate([one for one in found if one.shape[1] == channels]).astype(np.float64)
    known = (channel[~np.isnan(channel)] for channel in steps.T)
    scales = [mean_and_std(channel) if len(channel) else (0.0, 0.0) for channel in known]
    # A channel that is always the same becomes 0.
    means, stds = zip(*((mean, std or 1.0) for mean, std in scales), strict=True)
    config = SeriesInput(column=name, means=means, stds=stds)
    if (longest := max(map(len, found))) > config.max_length:
        notes.append(f"{name}: series of up to {longest} steps are cut to {config.max_length}")
    return config


def _fit_regions(manifest: Manifest, name: str, notes: list[str]) -> RegionsInput | None:
    found = _sample(manifest, name, read_regions, notes)
    if not found:
        return None
    [(width, classes)] = [pair for pair, _ in Counter(map(_widths, found)).most_common(1)]
    config = RegionsInput(column=name, width=width, classes=classes)
    if (most := max(len(one.features) for one in found)) > config.max_regions:
        notes.append(f"{name}: of up to {most} regions the first {config.max_regions} are read")
    return config


def _widths(regions: RegionFile) -> tuple[int, int]:
    return regions.features.shape[1], 0 if regions.classes is None else regions.classes.shape[1]


def _sample(manifest: Manifest, name: str, read: Callable[..., Any], notes: list[str]) -> list[Any]:
    """What up to `SAMPLE` rows, spread over the table, lead to."""
    rows: NDArray[np.int64] = np.unique(np.linspace(0, len(manifest) - 1, SAMPLE).astype(np.int64))
    found, faults = [], []
    for row in rows.tolist():
        if is_empty(given := reference(manifest.cell(row, name))):
            continue
        try:
            found.append(read(given, manifest.root))
        except DataError as error:
            faults.append(f"{manifest.where(row, name)}: {error}")
    if faults:
        notes.append(f"{name}: {len(faults)} of {len(rows)} looked at cannot be read, first: {faults[0]}")
    return found
