"""What a compression has cost and won, stage by stage: as data, as a page, and as a plot of size against quality."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from polymodal.compress.cost import Cost
from polymodal.compress.step import Quality
from polymodal.errors import ConfigError
from polymodal.evaluate.words import LANGUAGES
from polymodal.version import __version__

# key -> English, Chinese
WORDS: dict[str, tuple[str, str]] = {
    "title": ("Compression", "模型压缩报告"),
    "step": ("after", "步骤"),
    "before": ("before", "压缩前"),
    "bytes": ("on disk", "磁盘占用"),
    "memory": ("memory", "内存占用"),
    "parameters": ("parameters", "参数量"),
    "latency": ("one row", "单行延迟"),
    "throughput": ("rows/s, batch 32", "吞吐（行/秒，批量 32）"),
    "interval": ("95 % interval", "95% 置信区间"),
    "difference": ("difference", "差值"),
    "times": ("times", "倍"),
    "smaller": ("smaller on disk", "磁盘占用缩小"),
    "faster": ("the throughput", "吞吐提升"),
    "lost": ("lost", "损失"),
    "allowed": ("allowed", "允许"),
    "measured": (
        "Quality: {metric}, on {rows:,} rows ({which}). Memory, latency and throughput: of a process of its own that "
        "loads the artifact with torch on this machine, without reading pictures or texts.",
        "质量指标：{metric}，在 {rows:,} 行（{which}）上测得。内存、延迟与吞吐：在本机单独进程中用 torch 加载模型测得，"
        "不含图片读取与分词。",
    ),
    "plot": ("Size against quality; bars: 95 % interval", "大小与质量；竖线：95% 置信区间"),
    "notes": ("Notes", "说明"),
}


class Stage(NamedTuple):
    """What stands after a step (or, the first, before all of them)."""

    step: str  # as it is written; "" of the artifact as it was given
    quality: Quality
    cost: Cost


@dataclass(frozen=True)
class Compressed:
    folder: Path
    stages: tuple[Stage, ...]
    which: str  # the measured rows, as people say it
    rows: int  # how many of them
    notes: tuple[str, ...]
    max_loss: float | None

    @property
    def loss(self) -> float:
        """In points of the metric, 0 to 1; negative where it has become better."""
        return self.stages[0].quality.value - self.stages[-1].quality.value

    @property
    def data(self) -> dict[str, Any]:
        """What compression.json holds."""
        return {
            "polymodal": __version__,
            "metric": self.stages[0].quality.metric,
            "measured_on": {"which": self.which, "rows": self.rows},
            "max_loss": self.max_loss,
            "loss": self.loss,
            "stages": [
                {"step": one.step, "quality": one.quality._asdict(), "cost": one.cost._asdict()} for one in self.stages
            ],
            "notes": list(self.notes),
        }

    @property
    def summary(self) -> dict[str, Any]:
        """What the artifact's metrics.json holds."""
        quality = self.stages[-1].quality
        named = {quality.metric: quality.value, "low": quality.low, "high": quality.high}
        return {**named, "loss": self.loss, "of_the_bytes": self.stages[-1].cost.bytes / self.stages[0].cost.bytes}

    def to_json(self) -> str:
        return json.dumps(self.data, indent=1, ensure_ascii=False) + "\n"

    def to_html(self, lang: str = "en") -> str:
        """The page, in English ("en") or Chinese ("zh").

        Raises:
            ConfigError: another language.
        """
        if lang not in LANGUAGES:
            raise ConfigError(f'lang must be one of {", ".join(LANGUAGES)}, got "{lang}"')
        from jinja2 import Environment, PackageLoader, StrictUndefined  # slow, and only a page needs it
        from markupsafe import Markup

        word = {key: both[LANGUAGES.index(lang)] for key, both in WORDS.items()}
        environment = Environment(
            loader=PackageLoader("polymodal.compress"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        environment.filters |= {"size": written_size, "time": written_time, "percent": written_share, "number": number}
        first = self.stages[0]
        told = word["measured"].format(metric=first.quality.metric, rows=self.rows, which=self.which)
        return environment.get_template("compress.html").render(
            word=word, lang=lang, stages=self.stages, first=first, last=self.stages[-1], loss=self.loss, told=told,
            max_loss=self.max_loss, notes=self.notes, folder=self.folder.name, plot=Markup(plot(self.stages, word)),
        )  # fmt: skip

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Heads and lines, as a terminal shows them."""
        metric = self.stages[0].quality.metric
        heads = ("after", "on disk", "memory", "parameters", "one row", "rows/s, batch 32", metric, "95 % interval")
        lines: list[tuple[str, ...]] = [
            (
                one.step or "before",
                written_size(one.cost.bytes),
                written_size(one.cost.memory),
                f"{one.cost.parameters:,}",
                written_time(one.cost.latency),
                number(one.cost.throughput),
                written_share(one.quality.value),
                f"{written_share(one.quality.low)} – {written_share(one.quality.high)}",
            )
            for one in self.stages
        ]
        return heads, lines


def written_size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KB", "MB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def written_time(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def written_share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plot(stages: tuple[Stage, ...], word: dict[str, str]) -> str:
    """An SVG: bytes on disk across, quality up, the stages joined by a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    across = [one.cost.bytes / 1e6 for one in stages]
    up = [100 * one.quality.value for one in stages]
    axes.plot(across, up, color="#9a8ea6", linewidth=1)
    for x, one in zip(across, stages, strict=True):
        if one.quality.low is not None and one.quality.high is not None:
            axes.plot([x, x], [100 * one.quality.low, 100 * one.quality.high], color="#3b82f6", alpha=0.4, linewidth=5)
    axes.plot(across, up, "o", color="#3b82f6")
    for n, (x, y) in enumerate(zip(across, up, strict=True)):
        axes.annotate(str(n), (x, y), (6, 6), textcoords="offset points", fontsize=9)
    axes.set_xlim(left=0)
    axes.set_xlabel("MB")
    axes.set_ylabel("%")
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    file = io.StringIO()
    figure.savefig(file, format="svg")
    drawn = file.getvalue()
    return drawn[drawn.index("<svg") :]
