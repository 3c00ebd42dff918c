"""Bars of an ablation, as a PNG for documents: the main metric of a target for each subset of inputs."""

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from polymodal.evaluate.ablation import Ablation

_UNSAFE = re.compile(r"[^\w.-]")  # in a file's name
SHOWN, WHOLE, BASELINE = "#3b82f6", "#16a37b", "#d6455d"
# Families that have Chinese; those of the system that are not there are left out, for matplotlib complains of them.
CHINESE = ("Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "SimHei", "WenQuanYi Micro Hei", "Arial Unicode MS")


def draw(ablation: "Ablation", folder: Path) -> list[Path]:
    """ablation-TARGET.png for each target."""
    there = set(font_manager.get_font_names())
    style: dict[Any, Any] = {
        "font.family": ["DejaVu Sans", *(name for name in CHINESE if name in there)],
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
    }
    paths = []
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a system without any Chinese font
        for name, about in ablation.data["targets"].items():
            path = folder / f"ablation-{_UNSAFE.sub('_', name)}.png"
            _figure(name, about["main"], ablation.table(name)).savefig(path, dpi=150)
            paths.append(path)
    return paths


def _figure(target: str, metric: str, rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(7, 1.1 + 0.36 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    most = max(len(row["inputs"]) for row in rows)
    names = [" + ".join(row["inputs"]) if len(row["inputs"]) < most or most == 1 else "all inputs" for row in rows]
    values = [row["value"] if row["value"] is not None else 0.0 for row in rows]
    colors = [WHOLE if len(row["inputs"]) == most else SHOWN for row in rows]
    axes.barh(range(len(rows)), values, 0.62, color=colors)
    for place, row in enumerate(rows):
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color="#1c2330", linewidth=1.4)
        said = "n/a" if row["value"] is None else f"{row['value']:.3f}"
        end = max(row["high"] if row["high"] is not None else 0.0, values[place], 0.0)
        axes.annotate(said, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=9)
    if rows[0]["baseline"] is not None:
        axes.axvline(rows[0]["baseline"], color=BASELINE, linewidth=1.2, linestyle="--")
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_title(f"{target}: {metric} by inputs, 95 % intervals; dashed: without inputs", fontsize=10, loc="left")
    return figure
