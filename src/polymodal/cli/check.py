"""`polymodal check`: what is wrong with a table."""

from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.output import print_json, say


def run(
    table: Annotated[str, typer.Argument(help="CSV, TSV, JSONL, Parquet, JSON, a folder, or tars.")],
    image: Annotated[str | None, typer.Option(help="Column of pictures, if not the one found.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Column of texts, if not the one found; may be repeated.")
    ] = None,
    split_column: Annotated[str | None, typer.Option(help="Column that says train, val or test.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures, if it is not the table's own.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of a text table, if UTF-8 and GBK are wrong.")] = None,
    fix: Annotated[
        Path | None, typer.Option(help="Write the rows without errors here, and a list of the others.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that open pictures; one a core by default.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="How many faults to print.")] = 10,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, every fault included.")] = False,
) -> None:
    """Open every picture and text of a table; list the faults by row and column.

    Rows are counted from 1, the header not counted. **Errors** (missing, truncated or unreadable pictures, empty
    captions, pictures that are in two splits, rows that cannot be read) are left out by `--fix`. **Warnings**
    (duplicates within a split, pictures that look alike, wrong file endings) are not. Exit code 1 if there is an error.

    Examples:

    - `polymodal check pairs.csv`
    - `polymodal check pairs.csv --image photo --text title --text keywords`
    - `polymodal check captions_val2017.json --images val2017 --json > report.json`
    - `polymodal check "shards/{000..009}.tar" --fix clean.csv`
    """
    from polymodal.data.check import check
    from polymodal.data.check import fix as write_fixed
    from polymodal.data.manifest import Manifest

    manifest = Manifest.read(
        table, image=image, text=text or None, split_column=split_column, images=images, encoding=encoding
    )
    report = check(manifest, workers=workers)
    fixed = write_fixed(manifest, report, fix) if fix is not None else None
    if json:
        answer = report.to_dict()
        if fixed is not None:
            answer["fixed"] = {name: str(v) if isinstance(v, Path) else v for name, v in vars(fixed).items()}
        print_json(answer)
    else:
        _print(manifest, report, show)
    if fixed is not None:
        say(f"kept {fixed.kept} of {report.rows} rows: {fixed.table}")
        say(f"left out {fixed.left_out} rows, for the reasons in {fixed.list}")
    if len(report.left_out):
        raise typer.Exit(1)


def _print(manifest: Any, report: Any, show: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{report.source}[/bold]: {report.rows} rows, {report.rows - len(report.left_out)} usable")
    used = dict.fromkeys(manifest.text, "text") | {manifest.image: "image", manifest.split_column: "split"}
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    columns = Table(
        "column", "modality", "used as", "why", box=None, pad_edge=False, title="Columns", title_justify="left"
    )
    for column in report.columns:
        columns.add_row(column.name, column.modality, used.get(column.name, ""), column.reason)
    console.print(columns)
    for title, rows in _statistics(report.statistics):
        table = Table("", *rows[0], box=None, pad_edge=False, title=title, title_justify="left")
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
    _print_faults(console, report, show)


def _statistics(statistics: dict[str, Any]) -> Any:
    spreads: dict[str, dict[str, float]] = {}
    if pictures := statistics.get("pictures"):
        spreads |= {
            "picture width": pictures["width"],
            "picture height": pictures["height"],
            "bytes": pictures["bytes"],
        }
    if captions := statistics.get("captions"):
        spreads |= {"caption characters": captions["characters"], "caption words": captions["words"]}
    if spreads := {name: values for name, values in spreads.items() if values}:
        heads = ["min", "median", "p95", "max", "mean"]
        yield "Sizes", [heads, *([name, *(f"{values[head]:g}" for head in heads)] for name, values in spreads.items())]
    facts: list[list[str]] = []
    if pictures:
        formats = ", ".join(f"{name} {count}" for name, count in pictures["formats"].items())
        facts.append(["pictures", f"{pictures['usable']} of {pictures['pictures']} different files usable ({formats})"])
    if captions:
        chinese = f", {captions['share_with_chinese']:.0%} with Chinese"
        facts.append(["captions", f"{captions['captions']}, {captions['distinct']} distinct{chinese}"])
    for name, found in statistics["categories"].items():
        listed = ", ".join(f"{value} {count}" for value, count in found["largest"].items())
        more = f" and {found['values'] - 10} more" if found["values"] > 10 else ""
        without = f"; {found['rows_without']} rows without" if found["rows_without"] else ""
        facts.append([name, f"{found['values']} values: {listed}{more}{without}"])
    if facts:
        yield "Content", [[""], *facts]


def _print_faults(console: Any, report: Any, show: int) -> None:
    from rich.markup import escape

    errors, warnings = report.counts("error"), report.counts("warning")
    for style, word, counts in (("red", "errors", errors), ("yellow", "warnings", warnings)):
        if counts:
            listed = ", ".join(f"{kind} {count}" for kind, count in counts.items())
            console.print(f"[{style}]{sum(counts.values())} {word}[/{style}]: {listed}")
    if not errors:
        console.print("[green]no errors[/green]")
    # Errors first: they are what has to be dealt with.
    printed = 0
    for severity in ("error", "warning"):
        for fault in report.faults:
            if fault.severity == severity and printed < show:
                printed += 1
                console.print(f"  {severity} [{fault.kind}] {fault}", markup=False, soft_wrap=True)
    if (rest := len(report.faults) - printed) > 0:
        console.print(escape(f"  ... and {rest} more: --show {len(report.faults)} or --json"), markup=False)
