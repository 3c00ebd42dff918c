"""`polymodal preview`: a contact sheet."""

from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.output import print_json, say


def run(
    table: Annotated[str, typer.Argument(help="CSV, TSV, JSONL, Parquet, JSON, a folder, or tars.")],
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("preview.png"),
    rows: Annotated[int, typer.Option(min=1, max=1000, help="How many rows, drawn at random.")] = 24,
    split: Annotated[str | None, typer.Option(help="Only rows of this split.")] = None,
    augment: Annotated[
        list[str] | None,
        typer.Option(help="Augmentation as `image.flip=0.5`, may be repeated; `default` for the defaults."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Augmentation and picture size of this recipe, name or file.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side in pixels as a model sees them; whole by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, other rows and other augmentation.")] = 0,
    image: Annotated[str | None, typer.Option(help="Column of pictures, if not the one found.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Column of texts, if not the one found; may be repeated.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures, if it is not the table's own.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Draw a contact sheet of pictures and captions, with or without augmentation.

    With `--augment` every line is one row: the picture as it is used, then as training would see it in five epochs.

    Examples:

    - `polymodal preview pairs.csv --out sheet.png`
    - `polymodal preview pairs.csv --split test --rows 48`
    - `polymodal preview pairs.csv --recipe my.yaml`
    - `polymodal preview pairs.csv --augment image.flip=0.5 --augment image.hue=0.1 --augment "image.scale=[0.5, 1]"`
    """
    from polymodal.config import override
    from polymodal.data.augment import Augment
    from polymodal.data.cache import written_beside
    from polymodal.data.manifest import Manifest
    from polymodal.data.preview import sheet
    from polymodal.preprocess import ImagePreprocess

    chosen, preprocess = _of_recipe(recipe) if recipe is not None else (None, None)
    if augment:
        changes = [change for change in augment if change != "default"]
        chosen = Augment.parse(override((chosen or Augment()).to_dict(), changes), "--augment")
    if size is not None:
        preprocess = (preprocess or ImagePreprocess()).model_copy(update={"size": size})
    manifest = Manifest.read(table, image=image, text=text or None, images=images)
    if split is not None:
        manifest = manifest.split(split)
    drawn = sheet(manifest, rows=rows, seed=seed, augment=chosen, preprocess=preprocess)
    with written_beside(out, "choose another place for the sheet") as part:
        drawn.image.save(part, "PNG")
    for note in drawn.notes:
        say(f"note: {note}")
    if json:
        print_json({"out": str(out), "rows": min(rows, len(manifest)), "notes": list(drawn.notes)})
    else:
        print(out)


def _of_recipe(recipe: str) -> tuple[Any, Any]:
    from polymodal.train.recipe import Recipe  # slow to import

    read = Recipe.read(recipe)
    if read.data.augment is None:
        say(f"recipe {recipe} has no augmentation: pictures are shown as they are used")
    return read.data.augment, read.preprocess.image if read.preprocess is not None else None
