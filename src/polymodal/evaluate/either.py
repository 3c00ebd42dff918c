"""`evaluate` for whatever `polymodal.load` gives: a model of pictures and texts, or one that predicts targets."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from polymodal.data.manifest import Manifest
from polymodal.engine import Engine, Predictor, load
from polymodal.engine.backends.choose import AskedBackend, AskedPrecision
from polymodal.errors import ConfigError
from polymodal.evaluate.report import Report
from polymodal.evaluate.run import evaluate_pairs
from polymodal.evaluate.targets import evaluate_targets


def evaluate(
    artifact: str | Path | Engine | Predictor,
    table: str | Path | Manifest,
    *,
    images: str | Path | None = None,
    split: str | None = None,
    exclude: Mapping[str, Sequence[str]] | None = None,
    by: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    lang: str = "en",
    backend: AskedBackend = "auto",
    precision: AskedPrecision = "auto",
    cache: bool = False,
    progress: bool = False,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    tasks: Iterable[str] | None = None,
    label: str | None = None,
    templates: Sequence[str] | None = None,
    candidates: int | None = None,
    k: Sequence[int] | None = None,
) -> Report:
    """Measure a model on a table: `evaluate_pairs` of an engine, `evaluate_targets` of a predictor.

    Args:
        artifact: a folder, whatever `polymodal.load` takes, or what it gave. A run's folder knows the rows that it was
            not trained on.
        table: a file or folder, whatever `Manifest.read` takes, or a manifest.
        images: the folder of the pictures, if not the table's.
        split: only rows of this split.
        exclude: column -> values; rows that hold one of them are left aside everywhere.
        by: a column; for each of its values the numbers are told too.
        seed: of bootstrap and examples.
        out: a folder for report.json and report.html.
        lang: "en" or "zh", of report.html.
        backend, precision, cache: as of `polymodal.load`; what was loaded before keeps its own.
        image, text, tasks, label, templates, candidates, k: of models of pictures and texts only, see `evaluate_pairs`.

    Raises:
        ConfigError: a column, split, task or value is not known, or an option is not for this kind of model.
        DataError: no row can be read, or the rows do not allow what was asked for.
    """
    model: Engine | Predictor = (
        artifact
        if isinstance(artifact, Engine | Predictor)
        else load(artifact, backend=backend, precision=precision, cache=cache)
    )
    if isinstance(model, Engine):
        return evaluate_pairs(
            model, table, image=image, images=images, text=text, split=split, exclude=exclude, tasks=tasks, label=label,
            templates=templates, candidates=candidates, by=by, k=(1, 5, 10) if k is None else k, seed=seed, out=out,
            lang=lang, progress=progress,
        )  # fmt: skip
    other = {"image": image, "text": text, "tasks": tasks, "label": label, "templates": templates,
             "candidates": candidates, "k": k}  # fmt: skip
    if asked := [name for name, value in other.items() if value is not None]:
        raise ConfigError(
            f'{", ".join(asked)}: for models of pictures and texts; "{model.name}" predicts '
            f"{', '.join(model.features.targets) or 'nothing'} from {', '.join(model.features.inputs)}"
        )
    return evaluate_targets(
        model, table, artifact=artifact if isinstance(artifact, str | Path) else None, images=images, split=split,
        exclude=exclude, by=by, seed=seed, out=out, lang=lang, progress=progress,
    )  # fmt: skip
