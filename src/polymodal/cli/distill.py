"""`polymodal distill`"""

from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.fit import source_of, with_targets
from polymodal.cli.output import print_json, say


def run(
    recipe: Annotated[
        list[str], typer.Argument(metavar="RECIPE|TABLE [KEY=VALUE]...", help="The student, as for `fit`.")
    ],
    teacher: Annotated[list[str], typer.Option(help="Artifact or run that teaches; may be given again.")],
    table: Annotated[Path | None, typer.Option(help="The table to learn on.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Column to predict from the others, as for `fit`.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; else runs/NAME-1, -2, ...")] = None,
    hard: Annotated[float, typer.Option(min=0, help="Weight of what labels or pairs say themselves.")] = 0.5,
    logits: Annotated[float | None, typer.Option(min=0, help="Of the teacher's predictions.")] = None,
    affinity: Annotated[float | None, typer.Option(min=0, help="Of which text each picture is like.")] = None,
    embedding: Annotated[float | None, typer.Option(min=0, help="Of the teacher's vectors or joint state.")] = None,
    hidden: Annotated[float, typer.Option(min=0, help="Of its layers' states; needs the same tokens.")] = 0.0,
    attention: Annotated[float, typer.Option(min=0, help="Of its attention; needs the same tokens.")] = 0.0,
    temperature: Annotated[float, typer.Option(help="Of its predictions.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a new model on a table with a trained one, or several, as its teachers.

    The student is any recipe of `fit`: it may be smaller and have another architecture, tokenizer or picture size than
    its teachers, which look at the rows once, before training. Rows need no labels (`--hard 0`). To let an artifact
    teach what compression has made of it, there is the step `distill` of `polymodal compress`.

    **Examples**

    - `polymodal distill clip-tiny --table pairs.csv --teacher runs/large --out runs/small`
    - `polymodal distill homes.csv --target price --teacher runs/a --teacher runs/b --hard 0 --out runs/c`
    """
    from polymodal.compress.distill import Teaching
    from polymodal.compress.teach import teach

    options = {"logits": logits, "affinity": affinity, "embedding": embedding}
    given = {name: value for name, value in options.items() if value is not None}
    losses = {"hard": hard, "hidden": hidden, "attention": attention, "temperature": temperature}
    teaching = Teaching.parse({"teacher": teacher, **losses, **given}, where="distill")
    names = [word for word in recipe if "=" not in word]
    source, table = source_of("distill", names, None, table)
    if target:
        source, table = with_targets("distill", source, table, target), None
    done = teach(teaching, source, table, out=out, overrides=[word for word in recipe if "=" in word])
    if as_json:
        print_json(done.to_dict())
    else:
        say(f"{done.steps} steps")
        print(done.artifact)
