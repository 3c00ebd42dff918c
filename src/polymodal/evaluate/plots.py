"""Curves and histograms of report.html as inline SVG, in the page's own font and ink, so light and dark both read.

There are no words in them (the page writes the legends), so that no font needs Chinese letters.
"""

import io
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

COLORS = {"image_to_text": "#3b82f6", "text_to_image": "#ea7317", "matched": "#16a37b", "unmatched": "#9a8ea6"}
INK = "#010203"  # stands for the page's text color until the SVG is written
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6,
}  # fmt: skip


def recall_plot(ways: Mapping[str, Any]) -> str:
    """R@k over k of both ways, with intervals and chance."""

    def draw(axes: Axes) -> None:
        for way, result in ways.items():
            k, value, low, high, chance = (
                [point[name] for point in result["curve"]] for name in ("k", "value", "low", "high", "chance")
            )
            color = COLORS[way]
            axes.plot(k, value, color=color, marker="o", markersize=3)
            axes.fill_between(k, low, high, color=color, alpha=0.2, linewidth=0)
            axes.plot(k, chance, color=color, linestyle=":", linewidth=1)
        axes.set_xscale("log")
        ticks = [k for k in (1, 2, 5, 10, 20, 50, 100) if k <= max(point["k"] for point in result["curve"])]
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("k")
        axes.grid(alpha=0.15, color=INK)

    return svg("recall", draw)


def ranks_plot(ways: Mapping[str, Any]) -> str:
    """Share of queries by the rank of their first right answer."""

    def draw(axes: Axes) -> None:
        for place, (way, result) in enumerate(ways.items()):
            counts = result["ranks"]["counts"]
            left = [n + (place - 0.5) * 0.4 for n in range(len(counts))]
            axes.bar(left, [count / sum(counts) for count in counts], 0.38, color=COLORS[way])
        edges = max((result["ranks"]["edges"] for result in ways.values()), key=len)
        names = [_range(int(low), int(high)) for low, high in pairwise(edges)]
        axes.set_xticks(range(len(names)), names, rotation=35 if len(names) > 6 else 0)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    return svg("ranks", draw)


def cosines_plot(cosines: Mapping[str, Any]) -> str:
    """Shares of matched and unmatched pairs by their cosine."""

    def draw(axes: Axes) -> None:
        for kind in ("unmatched", "matched"):
            edges, counts = cosines[kind]["edges"], cosines[kind]["counts"]
            total = sum(counts) or 1
            axes.stairs([count / total for count in counts], edges, fill=True, alpha=0.35, color=COLORS[kind])
            axes.stairs([count / total for count in counts], edges, color=COLORS[kind], linewidth=1.4)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))

    return svg("cosines", draw)


def _range(low: int, high: int) -> str:
    return str(low) if high - low == 1 else f"{low}–{high - 1}"


def svg(name: str, draw: Callable[[Axes], None]) -> str:
    """What `draw` puts on the axes; `name` makes its ids differ from those of other plots of a page."""
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(4.2, 2.9), layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    drawn = file.getvalue()
    return (
        drawn[drawn.index("<svg") :]
        .replace(INK, "currentColor")
        .replace("'DejaVu Sans', 'Bitstream Vera Sans'", "inherit")
    )
