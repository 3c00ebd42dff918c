"""`polymodal evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polymodal.cli.computing import Backend, Cache, Precision
from polymodal.cli.output import print_json, print_table, say, split_exclusions, split_list
from polymodal.errors import ConfigError

if TYPE_CHECKING:
    from polymodal.evaluate import Report, TargetsReport


_PAIRS = "Models of pictures and texts"


def run(
    artifact: Annotated[
        str, typer.Argument(help="An artifact, a run's folder, a released checkpoint's folder, or hub:org/name.")
    ],
    table: Annotated[Path, typer.Argument(help="CSV, TSV, JSONL, Parquet, COCO JSON, a folder, or tars.")],
    split: Annotated[
        str | None,
        typer.Option(help="Only rows of this split. Of the table of a run with targets also test, val, train, all."),
    ] = None,
    images: Annotated[str | None, typer.Option(help="Folder of the pictures, if not the table's.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE: leave aside the rows that hold it; may be given again.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Numbers for each value of this column, too.")] = None,
    seed: Annotated[int, typer.Option(help="Of candidates, intervals and examples.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for report.json and report.html.")] = Path("evaluation"),
    lang: Annotated[str, typer.Option(help="Of report.html: en or zh.")] = "en",
    backend: Backend = "auto",
    precision: Precision = "auto",
    cache: Cache = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what report.json holds.")] = False,
    image: Annotated[str | None, typer.Option(help="Column of pictures.", rich_help_panel=_PAIRS)] = None,
    text: Annotated[str | None, typer.Option(help="Column of captions or names.", rich_help_panel=_PAIRS)] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Of retrieval, zero-shot, probe, knn, with commas; else all that the table allows.",
            rich_help_panel=_PAIRS,
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of classes; else the only category column.", rich_help_panel=_PAIRS)
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help="Sentence with {} for the class, for zero-shot; may be given again.", rich_help_panel=_PAIRS),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            help="Ask each query among so many items drawn at random; else among all.", rich_help_panel=_PAIRS
        ),
    ] = None,
    k: Annotated[
        str | None, typer.Option(help="The k of R@k, with commas; else 1,5,10.", rich_help_panel=_PAIRS)
    ] = None,
) -> None:
    """Measure a model on a table; write report.json and report.html.

    A model of pictures and texts: retrieval both ways, zero-shot classification, linear probe and k-NN on frozen
    vectors. A model with targets: every target's metrics, curves, confusion, calibration and worst misses; of the table
    that its run was trained on, the rows that were kept apart. Every value has its 95 % interval and stands beside what
    is reached without looking.

    Examples:

    - `polymodal evaluate runs/a pairs.csv --split test`

    - `polymodal evaluate runs/a emoji.parquet --split test_style --candidates 300 --exclude category=Flags --by style`

    - `polymodal evaluate runs/a photos/ --tasks zero-shot --label 类别 --template "一张{}的照片"`

    - `polymodal evaluate runs/a pairs.csv --split test --tasks probe,knn --label category --json`

    - `polymodal evaluate runs/homes homes.csv --by district --lang zh`

    - `polymodal evaluate runs/homes new-homes.csv --out evaluation-new`
    """
    from polymodal.evaluate import TargetsReport, evaluate

    report = evaluate(
        artifact,
        table,
        image=image,
        images=images,
        text=text,
        split=split,
        exclude=split_exclusions(exclude or []),
        tasks=None if tasks is None else split_list(tasks, "--tasks"),
        label=label,
        templates=template,
        candidates=candidates,
        by=by,
        k=None if k is None else _numbers(k),
        seed=seed,
        out=out,
        lang=lang,
        backend=backend,
        precision=precision,
        cache=cache,
        progress=True,
    )
    if as_json:
        print_json(report.data)
    elif isinstance(report, TargetsReport):
        print_targets(report)
        print(f"{out / 'report.html'}")
    else:
        _print_tables(report)
        print(f"{out / 'report.html'}")
    if isinstance(report, TargetsReport):
        say_about(report, out)
    else:
        _say_what_is_missing(report, out)


def _say_what_is_missing(report: "Report", out: Path) -> None:
    for note in report.data["notes"]:
        say(note)
    for one in report.data["skipped"]:
        say(f"not measured: {one['task']}: {one['reason']}")
    if left_out := report.data["rows"]["left_out"]:
        say(f"{len(left_out)} rows left out, first: row {left_out[0]['row']}, {left_out[0]['column']}: "
            f"{left_out[0]['reason']}; all of them are in {out / 'report.json'}")  # fmt: skip


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


def print_targets(report: "TargetsReport", *, only_main: bool = False) -> None:
    """A table of each target's metrics; or one of all targets with the main metric of each."""
    from polymodal.evaluate.targets_report import written_metric

    def line(name: str, m: dict[str, Any]) -> tuple[str, ...]:
        interval = "–" if m["low"] is None else f"{written_metric(m['low'], name)} – {written_metric(m['high'], name)}"
        return written_metric(m["value"], name), interval, written_metric(m["baseline"], name)

    rows = report.data["rows"]
    print(f"measured on {rows['which']}: {rows['chosen']:,} of {report.data['table']['rows']:,}")
    heads = ("value", "95 % interval", "without inputs")
    targets = report.data["targets"]
    if only_main:
        found = [(name, one["main"], *line(one["main"], one["metrics"][one["main"]])) for name, one in targets.items()]
        print_table(("target", "metric", *heads), found)
        return
    for name, one in targets.items():
        print(f"{name} ({one['task']}, {one['rows']:,} rows)")
        print_table(("metric", *heads), [(metric, *line(metric, m)) for metric, m in one["metrics"].items()])
        if by := one["by"]:
            main = one["main"]
            parts = [(value or "-", str(part["rows"]), *line(main, part["metrics"][main])) for value, part in by.items()
                     if part["rows"]]  # fmt: skip
            print_table((report.data["settings"]["by"], "rows", main, *heads[1:]), parts)


def say_about(report: "TargetsReport", out: Path) -> None:
    """Warnings, notes and faults, on stderr."""
    for warning in report.data["warnings"]:
        say(f"warning: {warning}")
    for note in report.data["notes"]:
        say(note)
    if faults := report.data["faults"]:
        say(f"{len(faults)} cells count as empty, first: row {faults[0]['row']}, {faults[0]['column']}: "
            f"{faults[0]['reason']}; all of them are in {out / 'report.json'}")  # fmt: skip
