"""`polymodal predict`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polymodal.cli.computing import Backend, Precision, say_notes
from polymodal.cli.output import print_json, print_table, say
from polymodal.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from polymodal.data.faults import Fault
    from polymodal.engine import Predicted, Prediction, Predictor

SHOWN = 50  # rows on the screen


def run(
    artifact: Annotated[str, typer.Argument(help="Artifact or run folder of a model with targets.")],
    table: Annotated[Path | None, typer.Argument(help="CSV, TSV, JSONL, Parquet, folder, tars.")] = None,
    out: Annotated[Path | None, typer.Option(help="predictions.csv, .jsonl or .parquet.")] = None,
    row: Annotated[str | None, typer.Option(help="One row by hand, as JSON; files by their paths.")] = None,
    value: Annotated[
        list[str] | None, typer.Option("--set", help="One row by hand, COLUMN=VALUE; may be given again.")
    ] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Those of all classes too.")] = False,
    split: Annotated[str | None, typer.Option(help="Only this split of the table.")] = None,
    images_in: Annotated[
        Path | None, typer.Option("--images-in", help="Folder of the pictures, if not the table's.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows that the model sees at once.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict every target of every row of a table.

    A line has the row's number, from 1 as in the source, and of each target its value and, of a class, how probable it
    is. A cell that is empty, or a column that the table lacks, is absent, which the model bears. A cell that cannot be
    read counts as empty too; it is named, and the exit code is then 1.

    **Examples**

    - `polymodal predict runs/a homes.csv --out predictions.csv`
    - `polymodal predict runs/a homes.csv --out predictions.parquet --probabilities`
    - `polymodal predict runs/a homes.csv --split test --json`
    - `polymodal predict runs/a --set size=80 --set photo=front.jpg --set notes="两室一厅"`
    - `polymodal predict runs/a --row '{"size": 80, "notes": "a dry home"}' --json`
    """
    by_hand = _by_hand(row, value or [])
    if (table is None) == (by_hand is None):
        raise ConfigError("predict: name a table, or one row by --set COLUMN=VALUE or --row JSON")
    if by_hand is not None and (split is not None or images_in is not None):
        raise ConfigError(
            "predict: --split and --images-in are for tables; a row by hand names its files by their paths"
        )
    if out is not None:
        from polymodal.engine.predictions import check_name

        check_name(out)
    from polymodal.engine import load_predictor

    predictor = load_predictor(artifact, device=device, backend=backend, precision=precision)
    say_notes(predictor.notes)
    predictor.refuse_without_targets()
    if by_hand is not None:
        _refuse_unknown(predictor, by_hand)
        source: Any = [by_hand]
    else:
        source = _manifest(table, split, images_in)
    rows = predictor.rows(source)
    if out is not None:
        from polymodal.engine.predictions import write_predictions

        done = write_predictions(
            predictor, rows, out, probabilities=probabilities, batch_size=batch_size, progress=True
        )
        if as_json:
            file = str(done.faults_file) if done.faults_file else None
            print_json({"out": str(out), "rows": done.count, "faults": len(done.faults), "faults_file": file})
        else:
            print(f"{done.count} rows: {out}")
        _say_about(done.notes, done.faults, done.faults_file)
        return
    found = predictor.predict(source, batch_size=batch_size, progress=True)
    if as_json:
        from polymodal.engine.predictions import plain

        lines = zip(found.rows.tolist(), found.predictions, strict=True)
        print_json(
            {
                "predictions": [plain(number, one, probabilities=probabilities) for number, one in lines],
                "faults": [fault._asdict() for fault in found.faults],
                "notes": list(found.notes),
            }
        )
    else:
        _print(predictor, found, probabilities)
    _say_about(found.notes, found.faults, None)


def _by_hand(written: str | None, values: list[str]) -> dict[str, Any] | None:
    """The row of --row and --set together; None if there is neither."""
    import json

    if written is None and not values:
        return None
    found: dict[str, Any] = {}
    if written is not None:
        try:
            given = json.loads(written)
        except ValueError as error:
            raise ConfigError(
                f"""--row: wanted JSON such as '{{"size": 80}}', got {written[:60]} ({error})"""
            ) from None
        if not isinstance(given, dict):
            raise ConfigError(f"--row: wanted one object with columns and values, got {written[:60]}")
        found = given
    for one in values:
        name, sign, value = one.partition("=")
        if not name or not sign:
            raise ConfigError(f'--set "{one}": wanted COLUMN=VALUE, for instance size=80')
        found[name] = value
    return found


def _refuse_unknown(predictor: "Predictor", row: dict[str, Any]) -> None:
    from polymodal.data.feature_rows import columns_of

    known = [column for config in predictor.features.inputs.values() for column in columns_of(config)]
    for name in row:
        if name not in known:
            raise ConfigError(
                f'no input reads "{name}"{did_you_mean(name, known)}; the model reads: {", ".join(known)}'
            )


def _manifest(table: Path | None, split: str | None, images_in: Path | None) -> Any:
    from polymodal.data.manifest import Manifest

    manifest = Manifest.read(str(table), images=images_in)
    return manifest.split(split) if split else manifest


def _print(predictor: "Predictor", found: "Predicted", probabilities: bool) -> None:
    from polymodal.engine.predictions import has_probabilities, has_probability

    heads, told = ["row"], []
    for name, target in predictor.features.targets.items():
        told.append(has_probability(target) or (probabilities and has_probabilities(target)))
        heads += [name, "probability"] if told[-1] else [name]
    lines = []
    for number, predictions in zip(found.rows[:SHOWN].tolist(), found.predictions[:SHOWN], strict=True):
        line = [str(number)]
        for one, is_told in zip(predictions.values(), told, strict=True):
            line += [_said(one.value), _probability(one, probabilities)] if is_told else [_said(one.value)]
        lines.append(line)
    print_table(heads, lines)
    if len(found.predictions) > SHOWN:
        say(f"{len(found.predictions) - SHOWN} more rows; `--out predictions.csv` writes all of them")


def _probability(one: "Prediction", of_all: bool) -> str:
    """Of the answer, or of all classes, the likeliest first."""
    if not of_all or one.probabilities is None:
        return "" if one.probability is None else f"{one.probability:.1%}"
    return ", ".join(f"{name} {share:.1%}" for name, share in sorted(one.probabilities.items(), key=lambda x: -x[1]))


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join("-" if one is None else str(one) for one in value)
    return str(value)


def _say_about(notes: "tuple[str, ...]", faults: "list[Fault]", file: Path | None, shown: int = 5) -> None:
    """Notes and faults on stderr; ends with 1 if a cell or row could not be read."""
    for note in notes:
        say(note)
    errors = [fault for fault in faults if fault.severity == "error"]
    for fault in faults[:shown]:
        say(f"counts as empty: {fault}")
    if faults:
        rest = f" and {len(faults) - shown} more" if len(faults) > shown else ""
        say(f"{len(errors)} cells or rows could not be read, {len(faults) - len(errors)} had warnings{rest}"
            + (f"; all of them: {file}" if file else ""))  # fmt: skip
    if errors:
        raise typer.Exit(1)
