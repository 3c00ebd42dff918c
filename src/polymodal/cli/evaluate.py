"""`polymodal evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.output import print_json, say, split_list
from polymodal.errors import ConfigError


def run(
    artifact: Annotated[
        str, typer.Argument(help="An artifact, a run's folder, a released checkpoint's folder, or hub:org/name.")
    ],
    table: Annotated[Path, typer.Argument(help="CSV, TSV, JSONL, Parquet, COCO JSON, a folder, or tars.")],
    split: Annotated[str | None, typer.Option(help="Only rows of this split.")] = None,
    image: Annotated[str | None, typer.Option(help="Column of pictures.")] = None,
    images: Annotated[str | None, typer.Option(help="Folder of the pictures, if not the table's.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of captions or names.")] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Of retrieval, zero-shot, probe, knn, with commas; else all that the table allows."),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of classes; else the only category column.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Sentence with {} for the class, for zero-shot; may be given again.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(help="Ask each query among so many items drawn at random; else among all.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE: leave aside the rows that hold it; may be given again.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Retrieval for each value of this column, too.")] = None,
    k: Annotated[str, typer.Option(help="The k of R@k, with commas.")] = "1,5,10",
    seed: Annotated[int, typer.Option(help="Of candidates, intervals and examples.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.")] = Path("evaluation"),
    lang: Annotated[str, typer.Option(help="Of report.html: en or zh.")] = "en",
    as_json: Annotated[bool, typer.Option("--json", help="Print what report.json holds.")] = False,
) -> None:
    """Measure a model on a table; write report.json and report.html.

    Retrieval both ways, zero-shot classification, linear probe and k-NN on frozen vectors; every value with its
    95 % interval and the chance level.

    Examples:

    - `polymodal evaluate runs/a pairs.csv --split test`

    - `polymodal evaluate runs/a emoji.parquet --split test_style --candidates 300 --exclude category=Flags --by style`

    - `polymodal evaluate runs/a photos/ --tasks zero-shot --label 类别 --template "一张{}的照片"`

    - `polymodal evaluate runs/a pairs.csv --split test --tasks probe,knn --label category --json`
    """
    from polymodal.evaluate import evaluate

    report = evaluate(
        artifact,
        table,
        image=image,
        images=images,
        text=text,
        split=split,
        exclude=_exclusions(exclude or []),
        tasks=None if tasks is None else split_list(tasks, "--tasks"),
        label=label,
        templates=template,
        candidates=candidates,
        by=by,
        k=_numbers(k),
        seed=seed,
        out=out,
        lang=lang,
        progress=True,
    )
    if as_json:
        print_json(report.data)
    else:
        _print_tables(report)
        print(f"{out / 'report.html'}")
    for note in report.data["notes"]:
        say(note)
    for one in report.data["skipped"]:
        say(f"not measured: {one['task']}: {one['reason']}")
    if left_out := report.data["rows"]["left_out"]:
        say(f"{len(left_out)} rows left out, first: row {left_out[0]['row']}, {left_out[0]['column']}: "
            f"{left_out[0]['reason']}; all of them are in {out / 'report.json'}")  # fmt: skip


def _exclusions(written: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in written:
        name, sign, value = one.partition("=")
        if not (name and sign and value):
            raise ConfigError(f'--exclude "{one}": wanted COLUMN=VALUE, for instance category=Flags')
        found.setdefault(name, []).append(value)
    return found


def _numbers(written: str) -> list[int]:
    try:
        return [int(one) for one in split_list(written, "--k")]
    except ValueError:
        raise ConfigError(f'--k: wanted whole numbers with commas between them, got "{written}"') from None


def _print_tables(report: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from polymodal.evaluate.report import written

    console = Console()
    for path, part in report.parts():
        asked = f"{part['queries']} queries, {part['candidates']} candidates" if "queries" in part else (
            f"{part['rows']} rows, {part['classes']} classes"
        )  # fmt: skip
        console.print(f"{', '.join(path).replace('_', ' ')} ({asked})", soft_wrap=True, highlight=False, style="bold")
        table = Table()
        table.add_column("metric")
        for name in ("value", "95 % interval", "chance"):
            table.add_column(name, justify="right")
        for name, m in part["metrics"].items():
            low, high = written(m["low"], name), written(m["high"], name)
            table.add_row(name, written(m["value"], name), f"{low} – {high}", written(m["chance"], name))
        console.print(table)
