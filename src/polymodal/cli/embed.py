"""`polymodal embed`"""

from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.computing import Backend, Cache, Precision, say_notes
from polymodal.cli.output import print_json, say, say_faults


def run(
    artifact: Annotated[str, typer.Argument(help="Artifact, run or checkpoint folder, or hub:org/name.")],
    table: Annotated[str, typer.Argument(help="CSV, TSV, JSONL, Parquet, folder, tars, COCO or Karpathy JSON.")],
    out: Annotated[Path, typer.Option(help="vectors.npz, vectors.npy or vectors.parquet.")],
    texts: Annotated[bool, typer.Option("--texts/--images", help="The table's texts, or its pictures.")] = False,
    split: Annotated[str | None, typer.Option(help="Only this split of the table.")] = None,
    image_column: Annotated[
        str | None, typer.Option("--image", "--image-column", help="Column of the pictures, if not the one found.")
    ] = None,
    text_column: Annotated[
        list[str] | None, typer.Option("--text", "--text-column", help="Column of the texts; may be repeated.")
    ] = None,
    images_in: Annotated[
        Path | None, typer.Option("--images-in", help="Folder of the pictures, if not the table's.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Items that the model sees at once.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    cache: Cache = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Turn the pictures or texts of a table into unit vectors, float32, one for each row (or caption).

    `.npz` holds `vectors` (E, D), `rows` (E,), counted from 1 as in the source, and `captions` (E,), the place among
    the texts of the row, from 0. `.npy` holds the vectors alone, and `NAME.rows.npy` beside it the rows. `.parquet` has
    the columns row, caption, picture or text, and vector.

    Rows that cannot be embedded are left out, counted, and written to `NAME.faults.jsonl`; the exit code is then 1.

    **Examples**

    - `polymodal embed runs/a pairs.csv --out pictures.npz`
    - `polymodal embed runs/a pairs.csv --texts --out captions.parquet`
    - `polymodal embed runs/a pairs.csv --split test --out test.npy --json`
    """
    from polymodal.engine.export import check_name, export
    from polymodal.engine.tables import Want

    check_name(out)
    from polymodal.data.manifest import Manifest
    from polymodal.engine import load_engine

    manifest = Manifest.read(table, image=image_column, text=text_column, images=images_in)
    manifest = manifest.split(split) if split else manifest
    engine = load_engine(artifact, device=device, backend=backend, precision=precision, cache=cache)
    say_notes(engine.notes)
    want: Want = "texts" if texts else "images"
    done = export(engine, manifest, want, out, batch_size=batch_size, progress=True)
    if as_json:
        print_json(
            {
                "out": str(out),
                "vectors": done.count,
                "width": engine.width,
                "left_out": len(done.faults),
                "faults": str(done.faults_file) if done.faults_file else None,
            }
        )
    else:
        print(f"{done.count} vectors of {engine.width} numbers: {out}")
    say_faults(done.faults, f"of {table}")
    if done.faults_file:
        say(f"all of them: {done.faults_file}")
        raise typer.Exit(1)
