"""The plots of a target in report.html; see `plots`. There are no words in them: the page writes the legends."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from polymodal.evaluate.plots import INK, svg

# Told apart by all eyes (Okabe and Ito 2008), on white and on black.
PALETTE = ("#3b82f6", "#e69f00", "#16a37b", "#d55e00", "#cc79a7", "#56b4e9", "#a3a512", "#9a8ea6")
BEFORE, AFTER = "#9a8ea6", "#3b82f6"


def target_plots(name: str, result: dict[str, Any]) -> dict[str, str]:
    """Every plot of a target's result, by its kind."""
    drawn = {}
    if curves := result.get("curves"):
        drawn["roc"] = _roc(name, curves)
        drawn["pr"] = _precision_recall(name, curves)
    if calibration := result.get("calibration"):
        drawn["reliability"] = _reliability(name, calibration)
    if points := result.get("points"):
        drawn["scatter"] = _scatter(name, points)
        drawn["errors"] = _errors(name, result["errors"])
    return drawn


def _roc(name: str, curves: Sequence[dict[str, Any]]) -> str:
    def draw(axes: Axes) -> None:
        _diagonal(axes)
        for color, curve in zip(PALETTE, curves, strict=False):
            axes.plot(*zip(*curve["roc"], strict=True), color=color, linewidth=1.5)
        _unit(axes, "false positive rate", "true positive rate")

    return svg(f"roc {name}", draw)


def _precision_recall(name: str, curves: Sequence[dict[str, Any]]) -> str:
    def draw(axes: Axes) -> None:
        for color, curve in zip(PALETTE, curves, strict=False):
            axes.step(*zip(*curve["pr"], strict=True), color=color, linewidth=1.5, where="post")
        _unit(axes, "recall", "precision")

    return svg(f"pr {name}", draw)


def _reliability(name: str, calibration: dict[str, Any]) -> str:
    """Accuracy over confidence; the larger a point, the more rows."""

    def draw(axes: Axes) -> None:
        _diagonal(axes)
        for kind, color in (("before", BEFORE), ("after", AFTER)):
            bins = calibration.get(kind, {}).get("reliability", ())
            rows = sum(one["rows"] for one in bins)
            x, y = ([one[key] for one in bins] for key in ("confidence", "accuracy"))
            axes.plot(x, y, color=color, linewidth=1.2)
            axes.scatter(x, y, [8 + 90 * one["rows"] / rows for one in bins], color=color, alpha=0.8, zorder=3)
        _unit(axes, "confidence", "accuracy")

    return svg(f"reliability {name}", draw)


def _scatter(name: str, points: Sequence[Sequence[float]]) -> str:
    def draw(axes: Axes) -> None:
        true, predicted = zip(*points, strict=True)
        ends = [min(*true, *predicted), max(*true, *predicted)]
        axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle=":")
        axes.scatter(true, predicted, 9, color=AFTER, alpha=0.5, linewidths=0)
        _thousands(axes.xaxis, 4)
        _thousands(axes.yaxis, 6)
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
        axes.grid(alpha=0.15, color=INK)

    return svg(f"scatter {name}", draw)


def _errors(name: str, errors: dict[str, Any]) -> str:
    def draw(axes: Axes) -> None:
        total = sum(errors["counts"])
        shares = [count / total for count in errors["counts"]]
        axes.stairs(shares, errors["edges"], fill=True, alpha=0.35, color=AFTER)
        axes.stairs(shares, errors["edges"], color=AFTER, linewidth=1.4)
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        _thousands(axes.xaxis, 4)
        axes.set_xlabel("predicted − true")

    return svg(f"errors {name}", draw)


def _diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")


def _unit(axes: Axes, across: str, up: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.15, color=INK)


def _thousands(axis: Axis, most: int) -> None:
    axis.set_major_locator(MaxNLocator(most))
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.6g}"))
