"""`polymodal soup`"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from polymodal.cli.output import print_json, print_table, say


def run(
    models: Annotated[list[str], typer.Argument(help="Artifacts or run folders of one architecture, two or more.")],
    data: Annotated[Path, typer.Option(help="Table with validation rows (split val), or a table of its own.")],
    out: Annotated[Path, typer.Option(help="Folder of the artifact to write.")],
    how: Annotated[
        Literal["greedy", "uniform"], typer.Option(help="greedy: only models that do not harm; uniform: all.")
    ] = "greedy",
    images: Annotated[str | None, typer.Option(help="Folder of the pictures, if not the table's.")] = None,
    split: Annotated[str | None, typer.Option(help="Rows to choose by, in the place of val.")] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Average the weights of models that were fine-tuned from the same start: one model, as fast as each of them.

    The models must differ in their weights only. Models that began at different random weights cannot be averaged; for
    them there is `polymodal ensemble`.

    **Examples**

    - `polymodal soup runs/a runs/b runs/c --data homes.csv --out runs/soup`
    - `polymodal soup runs/a runs/b --data val.csv --how uniform --out runs/soup --json`
    """
    from polymodal.compress.soup import soup

    found = soup(models, data, out, how=how, images=images, split=split, seed=seed)
    if as_json:
        print_json(found.data)
    else:
        _print(found.data)
        print(out)
    for warning in found.data["warnings"]:
        say(f"warning: {warning}")


def _print(data: dict[str, Any]) -> None:
    print(f"{data['soup']['metric']} of {data['rows']['validation']:,} validation rows")
    lines = [(one["name"], "x" if one["in"] else "", *_scored(one)) for one in data["ingredients"]]
    print_table(("model", "in it", "score", "95 % interval"), [*lines, ("soup", "", *_scored(data["soup"]))])


def _scored(one: dict[str, Any]) -> tuple[str, str]:
    between = "–" if one["low"] is None else f"{one['low']:.4f} – {one['high']:.4f}"
    return f"{one['score']:.4f}", between
