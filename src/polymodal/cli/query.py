"""`polymodal query`"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.computing import Backend, Cache, Precision, say_notes
from polymodal.cli.output import print_json, print_table, say, say_faults
from polymodal.errors import ConfigError


class Wanted(StrEnum):
    images = "images"
    texts = "texts"


def run(
    artifact: Annotated[str, typer.Argument(help="Artifact, run or checkpoint folder, or hub:org/name.")],
    table: Annotated[str, typer.Argument(help="The table that is searched: CSV, JSONL, Parquet, folder, tars, ...")],
    text: Annotated[str | None, typer.Option(help="The question, as a text.")] = None,
    image: Annotated[str | None, typer.Option(help="The question, as a picture file.")] = None,
    wanted: Annotated[
        Wanted | None,
        typer.Option("--for", help="What to find. Default: pictures, or texts in a table without pictures."),
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many.")] = 5,
    sheet: Annotated[Path | None, typer.Option(help="Also draw the answers into this PNG.")] = None,
    split: Annotated[str | None, typer.Option(help="Search only this split of the table.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the pictures, if not the one found.")] = None,
    text_column: Annotated[list[str] | None, typer.Option(help="Column of the texts; may be repeated.")] = None,
    images_in: Annotated[Path | None, typer.Option(help="Folder of the pictures, if not the table's.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    cache: Cache = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Ask a table: a text or a picture in, the nearest pictures or texts out.

    The first question computes the table's vectors and keeps them in the cache folder; the next ones are quick. Scores
    are cosines, from -1 to 1.

    **Examples**

    - `polymodal query runs/a pairs.csv --text "a dog on the beach"`
    - `polymodal query runs/a pairs.csv --text 沙滩上的狗 -k 10 --sheet answers.png`
    - `polymodal query runs/a pairs.csv --image cat.jpg` (pictures like this one)
    - `polymodal query runs/a pairs.csv --image cat.jpg --for texts --json`
    """
    if (text is None) == (image is None):
        raise ConfigError('query: give the question by --text "a dog" or by --image dog.jpg, one of the two')
    from polymodal.data.manifest import Manifest
    from polymodal.engine import load_engine, search
    from polymodal.engine.sheet import check_name, draw_answers

    if sheet is not None:
        check_name(sheet)
    manifest = Manifest.read(table, image=image_column, text=text_column, images=images_in)
    manifest = manifest.split(split) if split else manifest
    want = wanted or (Wanted.images if manifest.image else Wanted.texts)
    engine = load_engine(artifact, device=device, backend=backend, precision=precision, cache=cache)
    say_notes(engine.notes)
    answers = search.query(engine, manifest, text=text, image=image, want=want.value, k=k, progress=True)
    notes: tuple[str, ...] = ()
    if sheet is not None:
        notes = draw_answers(manifest, answers, text if text is not None else f"like {image}", sheet)
    if as_json:
        hits = [
            {"rank": rank, "score": hit.score, "row": hit.row, "image": hit.image, "texts": hit.texts}
            for rank, hit in enumerate(answers.hits, 1)
        ]
        print_json({"for": want.value, "searched": answers.searched, "hits": hits, "left_out": len(answers.faults)})
    else:
        rows = [
            (str(rank), f"{hit.score:.3f}", str(hit.row), hit.image or "", " | ".join(hit.texts))
            for rank, hit in enumerate(answers.hits, 1)
        ]
        print_table(("rank", "score", "row", "picture", "text"), rows)
    say_faults(answers.faults, f"of {table}")
    if sheet is not None:
        say(f"drawn: {sheet}")
    for note in notes:
        say(f"note: {note}")
