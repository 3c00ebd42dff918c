"""`polymodal profile`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polymodal.cli.fit import source_of, with_targets
from polymodal.cli.output import print_json, print_table

if TYPE_CHECKING:
    from polymodal.train.profile import Profile

BAR = 30  # characters of a whole step
MEANS = {
    "data": "waiting for a batch",
    "forward": "model and loss",
    "backward": "gradients",
    "optimizer": "clipping, update, schedule",
    "callbacks": "log, average of the weights",
    "lightning": "the loop's own",
}


def run(
    recipe: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE|TABLE [KEY=VALUE]...", help="What would be trained, and changes to it."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A recipe of your own, in place of RECIPE.")] = None,
    table: Annotated[Path | None, typer.Option(help="The table to train on.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Column to predict from the others; several by commas, or the option again."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure, after three others.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure where the time of a training step goes, and what share of the machine's limit it reaches.

    The first steps of the run that `fit` would make are trained, and nothing is kept: data, forward, backward,
    optimizer, callbacks (log, average of the weights) and what Lightning itself takes. With them samples a second,
    parameters, floating-point operations, the most memory held, and the share of the speed at which this machine
    multiplies large matrices.

    Examples:

    - `polymodal profile clip-tiny --table pairs.csv`

    - `polymodal profile clip-tiny --table pairs.csv trainer.batch_size=256 data.workers=2 --steps 50`

    - `polymodal profile houses.csv --target price`

    - `polymodal profile my.yaml trainer.precision=fp32 --json`
    """
    from polymodal.train.profile import profile

    names = [word for word in recipe or [] if "=" not in word]
    overrides = [word for word in recipe or [] if "=" in word]
    source, table = source_of("profile", names, config, table)
    if target:
        source, table = with_targets("profile", source, table, target), None
    found = profile(source, table, overrides=overrides, steps=steps)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)


def _print(found: "Profile") -> None:
    fast, slow = (f"{1000 * value:,.1f}" for value in found.spread)
    plan = found.plan
    print(
        f"{plan['recipe']} on {plan['device']}, {plan['precision']}, {found.threads} threads: {found.steps} steps of "
        f"{found.batch_size:,} samples, {1000 * found.step_seconds:,.1f} ms each ({fast} to {slow})"
    )
    print_table(
        ("part", "ms", "share", "", "what"),
        [
            (name, f"{1000 * part.seconds:,.2f}", f"{part.share:.1%}", _bar(part.share), MEANS[name])
            for name, part in found.parts.items()
        ],
    )
    print_table(
        ("weights of", "all", "trained"),
        [(name, f"{one.total:,}", f"{one.trained:,}") for name, one in found.parameters.items()],
    )
    print(f"speed    {found.samples_per_s:,.1f} samples/s, {found.flops / 1e9:,.2f} GFLOP a step")
    print(
        f"limit    {found.limit / 1e9:,.0f} GFLOP/s in products of large matrices; a step reaches "
        f"{found.share_of_limit:.1%} of it, forward and backward alone {found.model_share_of_limit:.1%}"
    )
    print(f"memory   {found.memory / 2**20:,.0f} MiB at most, preparation included")


def _bar(share: float) -> str:
    return "█" * round(BAR * share)
