"""`polymodal bench`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polymodal.cli.output import print_json, print_table, say, split_list

if TYPE_CHECKING:
    from polymodal.engine.bench import Bench


def run(
    artifact: Annotated[str, typer.Argument(help="Artifact or run folder, a released checkpoint, or hub:org/name.")],
    data: Annotated[
        Path | None, typer.Option(help="Table whose first 256 rows are answered; without it inputs are random.")
    ] = None,
    backends: Annotated[str, typer.Option(help="Which, with commas between them.")] = "torch,openvino,onnx",
    batches: Annotated[str, typer.Option(help="Batch sizes, with commas between them.")] = "1,8,32",
    seconds: Annotated[
        float, typer.Option(min=0.01, max=600, help="Of each backend, precision, tower and batch size.")
    ] = 1.0,
    plot: Annotated[Path | None, typer.Option(help="A PNG of rows a second.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time every backend in every precision that this machine has, and say how near its answers are to float32.

    They run in turn in one process, so that what else the machine does hits them alike; medians are shown. "same" is
    the share of rows with the same nearest neighbour, or of a model with targets the same label. What is converted for
    a backend is kept in the cache folder.

    **Examples**

    - `polymodal bench runs/a`
    - `polymodal bench runs/a --data pairs.csv --plot bench.png`
    - `polymodal bench runs/a --backends torch,openvino --batches 1,64 --json`
    """
    from polymodal.engine.bench import bench
    from polymodal.errors import ConfigError

    sizes = split_list(batches, "--batches")
    if not all(size.isdecimal() for size in sizes):
        raise ConfigError(f'--batches: wanted whole numbers with commas between them, got "{batches}"')
    if plot is not None and plot.suffix.lower() != ".png":
        raise ConfigError(f"--plot {plot}: wanted a name that ends in .png")
    found = bench(
        artifact,
        data,
        backends=split_list(backends, "--backends"),
        batches=sorted(int(size) for size in sizes),
        seconds=seconds,
        progress=True,
    )
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)
    for reason in found.left_out:
        say(f"left out: {reason}")
    say(
        f"half of the calls were within {found.noise:.0%} of each other: smaller differences mean nothing"
        + ("; this machine is busy, measure again when it is not" if found.noise > 0.2 else "")
    )
    if plot is not None:
        from polymodal.engine.bench_plot import draw

        draw(found, plot)
        say(str(plot))


def _print(found: "Bench") -> None:
    print(f"{found.machine}, {found.threads} threads; {found.rows}")
    for graph, columns in found.times.items():
        sizes = sorted(next(iter(columns.values())))
        heads = (graph, "latency", *(f"rows/s, batch {size}" for size in sizes), "cosine", "least", "same")
        lines = []
        for (name, precision), times in columns.items():
            near = found.agreements[graph][name, precision]
            lines.append(
                (
                    f"{name} {precision}",
                    f"{1000 * times[sizes[0]].median:.1f} ms",
                    *(f"{size / times[size].median:,.1f}" for size in sizes),
                    f"{near.mean:.5f}",
                    f"{near.least:.5f}",
                    f"{near.same:.1%}",
                )
            )
        print_table(heads, lines)
