"""`polymodal ensemble`"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from polymodal.cli.output import print_json, print_table, say
from polymodal.errors import ConfigError


def run(
    models: Annotated[list[str], typer.Argument(help="Artifacts or run folders, two or more.")],
    data: Annotated[Path, typer.Option(help="Table with validation rows (split val), or a table of its own.")],
    out: Annotated[Path, typer.Option(help="Folder of the artifact to write.")],
    weights: Annotated[str, typer.Option(help="fit, uniform, or a number for each model: 0.5,0.3,0.2")] = "fit",
    of: Annotated[
        Literal["probabilities", "logits"], typer.Option(help="What is averaged: the arithmetic or geometric mean.")
    ] = "probabilities",
    images: Annotated[str | None, typer.Option(help="Folder of the pictures, if not the table's.")] = None,
    split: Annotated[str | None, typer.Option(help="Rows to fit weights on, in the place of val.")] = None,
    seed: Annotated[int, typer.Option(help="Of the intervals.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Combine trained models into one artifact that predicts better than each of them.

    Predictions are averaged with weights that minimize the loss of the validation rows; cosines are, of models of
    pictures and texts. What comes out is used like any other artifact. Models and ensemble are measured on the rows of
    split test, or, without any, on the validation rows.

    **Examples**

    - `polymodal ensemble runs/a runs/b runs/c --data homes.csv --out runs/all`
    - `polymodal ensemble runs/a runs/b --data val.csv --weights 0.7,0.3 --of logits --out both --json`
    """
    from polymodal.compress.ensemble import ensemble

    found = ensemble(
        models,
        data,
        out,
        weights=_weights(weights),
        of=of,
        images=images,
        split=split,
        seed=seed,
        progress=True,
    )
    if as_json:
        print_json(found.data)
    else:
        _print(found.data)
        print(out)
    for warning in found.data["warnings"]:
        say(f"warning: {warning}")


def _weights(written: str) -> Any:
    if written in ("fit", "uniform"):
        return written
    try:
        return [float(one) for one in written.replace("，", ",").split(",")]
    except ValueError:
        raise ConfigError(f'--weights: wanted fit, uniform, or numbers as 0.5,0.3,0.2, got "{written}"') from None


def _print(data: dict[str, Any]) -> None:
    rows = data["rows"]
    print(f"measured on {rows['which']}: {rows['measured']:,}")
    lines = [(one["name"], _shares(one), *_scored(one)) for one in data["members"]]
    print_table(
        ("model", "weight", "loss", "score", "95 % interval"),
        [*lines, ("ensemble", "", *_scored(data["ensemble"]))],
    )


def _shares(one: dict[str, Any]) -> str:
    shares = one["weights"] if "weights" in one else {"": one["weight"]}
    return ", ".join(f"{name} {share:.3f}".strip() for name, share in shares.items())


def _scored(one: dict[str, Any]) -> tuple[str, str, str]:
    loss = one["loss"]
    told = (
        f"{loss:.4f}" if isinstance(loss, float) else ", ".join(f"{name} {value:.4f}" for name, value in loss.items())
    )
    return told, "–" if one["score"] is None else f"{one['score']:.4f}", _interval(one)


def _interval(one: dict[str, Any]) -> str:
    if "R@1" in one:
        return ", ".join(f"{way} {each['low']:.4f} – {each['high']:.4f}" for way, each in one["R@1"].items())
    return "–" if one["low"] is None else f"{one['low']:.4f} – {one['high']:.4f}"
