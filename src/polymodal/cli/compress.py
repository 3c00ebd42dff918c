"""`polymodal compress`."""

from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.output import print_json, print_table, say, split_exclusions


def run(
    artifact: Annotated[Path, typer.Argument(help="An artifact, or a run's folder.")],
    steps: Annotated[str, typer.Option(help="What is done, in this order; STEP or STEP:OPTION=VALUE, with commas.")],
    data: Annotated[Path, typer.Option(help="Table to calibrate by, to learn from and to measure on.")],
    out: Annotated[Path, typer.Option(help="Folder of the new artifact, its compression.html and compression.json.")],
    max_loss: Annotated[
        str | None, typer.Option(help="Of the metric, what all steps together may cost: 0.5% is half a point of R@1.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Rows to measure on; else those the run kept apart, or of split test or val.")
    ] = None,
    images: Annotated[str | None, typer.Option(help="Folder of the pictures, if not the table's.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE: leave aside the rows that hold it; may be given again.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(min=2, help="Of retrieval: ask each query among so many items; else among all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the rows that are drawn, and of what learns.")] = 0,
    lang: Annotated[str, typer.Option(help="Of compression.html: en or zh.")] = "en",
    as_json: Annotated[bool, typer.Option("--json", help="Print what compression.json holds.")] = False,
) -> None:
    """Make an artifact smaller and faster by a chain of steps; print what each costs.

    Before and after each step: bytes on disk, memory, parameters, time of one row, rows a second in batches of 32, and
    the quality on rows that nothing was learned from, with its 95 % interval. Of pictures and texts that is R@1, the
    mean of both ways; of a model with targets the mean of their main metrics.

    With `--max-loss` the layers that hurt most are found by measurement and stay in float until the bound holds; where
    it cannot be kept, the command fails and nothing is written.

    **Steps**

    - `prune:ffn=0.3,heads=0.25,layers=1`: what is missed least goes; `prune:sparsity=0.5` and `prune:two_of_four=true`
      put weights to zero, which is smaller only when packed

    - `low_rank:energy=0.99` or `low_rank:rank=0.5`, `vocabulary`

    - `distill:epochs=2`, `finetune:epochs=1`: learn again what was lost, from the model as it was or from the targets

    - `bf16`: 16 bits a weight on disk

    - `int8`: integer products; `int8:activations=static,rows=512` by calibration rows, `smooth=0.5` with SmoothQuant,
      `activations=none` for stored weights alone

    - `int4:group=32`: 4 bits a stored weight

    - `qat:epochs=1`: int8, and the weights learn to bear it

    **Examples**

    - `polymodal compress runs/a --steps int8 --data pairs.csv --out small --max-loss 0.5%`

    - `polymodal compress runs/a --steps prune:ffn=0.3,distill:epochs=2,int8 --data pairs.csv --out small`

    - `polymodal compress runs/homes --steps int8:activations=static,rows=512 --data homes.csv --out small --lang zh`
    """
    from polymodal.compress.chain import compress

    done = compress(
        artifact,
        steps,
        data,
        out,
        max_loss=max_loss,
        split=split,
        images=images,
        exclude=split_exclusions(exclude or []),
        candidates=candidates,
        seed=seed,
        lang=lang,
        say=say,
    )
    if as_json:
        print_json(done.data)
    else:
        print(f"measured on {done.which}: {done.rows:,}")
        print_table(*done.table())
        print(out / "compression.html")
    for note in done.notes:
        say(note)
