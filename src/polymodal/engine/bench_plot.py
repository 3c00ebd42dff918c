"""Rows a second of every backend and precision as bars, with the middle half of the calls as whiskers."""

from pathlib import Path

from polymodal.data.cache import written_beside
from polymodal.engine.bench import Bench


def draw(found: Bench, out: Path) -> None:
    """Write a PNG.

    Raises:
        DataError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(found.times), 3.6), layout="constrained")
    axes = figure.subplots(1, len(found.times), squeeze=False)[0]
    for axis, (graph, columns) in zip(axes, found.times.items(), strict=True):
        sizes = sorted(next(iter(columns.values())))
        wide = 0.8 / len(columns)
        for nth, ((name, precision), times) in enumerate(columns.items()):
            places = [place + (nth - (len(columns) - 1) / 2) * wide for place in range(len(sizes))]
            speeds = [size / times[size].median for size in sizes]
            below = [speed - size / times[size].high for speed, size in zip(speeds, sizes, strict=True)]
            above = [size / times[size].low - speed for speed, size in zip(speeds, sizes, strict=True)]
            label = f"{name} {precision}"
            axis.bar(places, speeds, wide, yerr=[below, above], label=label, error_kw={"elinewidth": 0.8})
        axis.set_xticks(range(len(sizes)), [f"batch {size}" for size in sizes])
        axis.set_title(graph)
        axis.set_ylabel("rows a second")
    axes[0].legend(fontsize="small")
    with written_beside(out, "choose another place for --plot") as fresh:
        figure.savefig(fresh, format="png", dpi=150)
