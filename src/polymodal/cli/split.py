"""`polymodal split`: train, val and test."""

from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.output import print_json, say
from polymodal.errors import ConfigError


def run(
    table: Annotated[str, typer.Argument(help="CSV, TSV, JSONL, Parquet, JSON, a folder, or tars.")],
    out: Annotated[Path, typer.Option(help="The table to write: .csv, .tsv, .jsonl or .parquet.")],
    ratio: Annotated[str, typer.Option(help="train:val:test, or train:val.")] = "8:1:1",
    stratify: Annotated[str | None, typer.Option(help="Column whose values each split gets in equal shares.")] = None,
    group: Annotated[str | None, typer.Option(help="Column whose equal values stay on one side; or `image`.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another division.")] = 0,
    column: Annotated[str, typer.Option(help="Name of the split column that is written.")] = "split",
    image: Annotated[str | None, typer.Option(help="Column of pictures, if not the one found.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures, if it is not the table's own.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the sizes as JSON.")] = False,
) -> None:
    """Divide a table into train, val and test: a copy of it with a column that says which.

    With `--group` no group is on two sides: give the patient, product or concept that several rows share.
    `--group image` keeps rows together whose pictures are the same file, have the same bytes, or look the same.

    Examples:

    - `polymodal split pairs.csv --out split.csv`
    - `polymodal split pairs.csv --ratio 9:1 --stratify label --out split.csv`
    - `polymodal split scans.parquet --group patient --seed 1 --out split.parquet`
    """
    from polymodal.data.manifest import Manifest
    from polymodal.data.split import split
    from polymodal.data.write import write

    try:
        numbers = [float(part) for part in ratio.split(":")]
    except ValueError:
        raise ConfigError(f'--ratio: wanted numbers with colons between them such as 8:1:1, got "{ratio}"') from None
    manifest = Manifest.read(table, image=image, images=images)
    found = split(manifest, numbers, stratify=stratify, group=group, seed=seed)
    written = write(manifest, out, {column: found.column()})
    if json:
        print_json({"out": str(written), "left_out": len(manifest.faults), **found.to_dict()})
        return
    for name, part in found.to_dict()["splits"].items():
        print(f"{name:6} {part['rows']:8} rows  {part['share']:7.2%} (wanted {part['wanted']:.2%})")
    if found.groups is not None:
        print(f"{found.groups} groups by {group}, none on two sides")
    say(f"wrote {written}")
    if any(known.name == column for known in manifest.columns):
        say(f'its column "{column}" takes the place of the one that was there')
    if manifest.faults:
        say(f"{len(manifest.faults)} rows could not be read and are not in it, first: {manifest.faults[0]}")
