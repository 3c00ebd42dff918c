"""`polymodal ablate`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polymodal.cli.output import print_json, print_table, say, split_exclusions

if TYPE_CHECKING:
    from polymodal.evaluate import Ablation


def run(
    artifact: Annotated[str, typer.Argument(help="Artifact or run folder of a model with several inputs.")],
    table: Annotated[Path, typer.Argument(help="CSV, TSV, JSONL, Parquet, folder, tars; with the targets' columns.")],
    split: Annotated[
        str | None, typer.Option(help="test, val, train, all, or a value of the split column; see `evaluate`.")
    ] = None,
    images: Annotated[str | None, typer.Option(help="Folder of the pictures, if not the table's.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE: leave aside the rows that hold it; may be given again.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for ablation.json and a plot of each target.")] = Path("ablation"),
    as_json: Annotated[bool, typer.Option("--json", help="Print what ablation.json holds.")] = False,
) -> None:
    """Measure what each input is worth: the metrics of a model that looks at some of its inputs only.

    Every subset of the inputs is measured (of more than six the single ones, all but one, and all), each value with its
    95 % interval. Nothing is trained again: the other inputs are absent. Of a run's own table the rows that were kept
    apart from training are taken.

    **Examples**

    - `polymodal ablate runs/a homes.csv`
    - `polymodal ablate runs/a new-homes.csv --out what-counts --json`
    """
    from polymodal.evaluate import ablate

    found = ablate(
        artifact,
        table,
        images=images,
        split=split,
        exclude=split_exclusions(exclude or []),
        seed=seed,
        out=out,
        progress=True,
    )
    if as_json:
        print_json(found.data)
    else:
        _print(found)
        print(out / "ablation.json")
    for warning in found.data["warnings"]:
        say(f"warning: {warning}")
    for note in found.data["notes"]:
        say(note)
    if faults := found.data["faults"]:
        first = faults[0]
        say(f"{len(faults)} cells count as empty, first: row {first['row']}, {first['column']}: {first['reason']}")


def _print(found: "Ablation") -> None:
    from polymodal.evaluate.targets_report import written_metric

    rows = found.data["rows"]
    print(f"measured on {rows['which']}: {rows['chosen']:,}")
    inputs = found.data["inputs"]
    print("; ".join(f"{name}: in {one['present']:.0%} of the rows" for name, one in inputs.items()))
    for target, about in found.data["targets"].items():
        main = about["main"]

        def told(value: Any, name: str = main) -> str:
            return written_metric(value, name)

        lines = [
            (
                *("x" if name in row["inputs"] else "" for name in inputs),
                told(row["value"]),
                "–" if row["low"] is None else f"{told(row['low'])} – {told(row['high'])}",
                told(row["baseline"]),
            )
            for row in found.table(target)
        ]
        print(f"\n{target}: {main} ({about['rows']:,} rows with a label)")
        print_table((*inputs, main, "95 % interval", "without inputs"), lines)
