"""compare.html and compare.png."""

import base64
import io
from typing import Any

from matplotlib import font_manager
from matplotlib.figure import Figure

from polymodal.data.contact_sheet import find_font
from polymodal.errors import ConfigError
from polymodal.evaluate.entries import Comparison, Entry
from polymodal.evaluate.words import LANGUAGES

COLORS = {"fusion": "#3b82f6", "single": "#ea7317", "baseline": "#9a8ea6"}
# key -> English, Chinese
WORDS: dict[str, tuple[str, str]] = {
    "title": ("Comparison of fusions", "融合方式比较"),
    "model": ("model", "模型"),
    "score": ("score", "得分"),
    "interval": ("95 % interval", "95% 置信区间"),
    "difference": ("to the best single input", "与最佳单一输入之差"),
    "parameters": ("parameters", "参数量"),
    "steps": ("steps", "步数"),
    "epochs": ("epochs", "轮数"),
    "seconds": ("seconds", "秒"),
    "rate": ("samples/s", "样本/秒"),
    "each_seconds": ("s of training", "秒训练时间"),
    "each_steps": ("steps", "步"),
    "each_epochs": ("epochs", "轮"),
    "fusion": ("fusion", "融合"),
    "single": ("one input alone", "单一输入"),
    "baseline": ("no input", "无输入"),
    "failed": ("failed", "失败"),
    "not possible": ("not possible", "不可行"),
    "not yet": ("not yet", "未完成"),
    "best": ("The best, ready for use", "最佳模型，可直接使用"),
    "measured": (
        "Score: the mean over the targets of {metrics}, on {rows:,} rows ({part}) that no model has learned from. "
        "Every model had {budget}.",
        "得分：各目标指标（{metrics}）的平均值，在未参与训练的 {rows:,} 行（{part}）上测得。每个模型的预算：{budget}。",
    ),
    "on_val": (
        "These rows also chose the best step of each run, so all scores are somewhat too high.",
        "这些行也用于挑选每次训练的最佳步，因此所有得分略偏高。",
    ),
}


def write_page(done: Comparison, lang: str) -> None:
    """compare.png, and compare.html in English ("en") or Chinese ("zh"), in the comparison's folder.

    Raises:
        ConfigError: another language.
    """
    word = words(lang)
    picture = chart(done, word)
    (done.folder / "compare.png").write_bytes(picture)
    (done.folder / "compare.html").write_text(page(done, word, lang, picture), encoding="utf-8")


def words(lang: str) -> dict[str, str]:
    if lang not in LANGUAGES:
        raise ConfigError(f'lang must be one of {", ".join(LANGUAGES)}, got "{lang}"')
    return {key: both[LANGUAGES.index(lang)] for key, both in WORDS.items()}


def page(done: Comparison, word: dict[str, str], lang: str, picture: bytes) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("polymodal.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("compare.html").render(
        word=word,
        lang=lang,
        entries=done.entries,
        best=done.best,
        folder=done.folder,
        told=told(done.settings, word),
        on_val=done.settings["measured_on"]["part"] == "val",
        colors=COLORS,
        picture=base64.b64encode(picture).decode(),
    )


def told(settings: dict[str, Any], word: dict[str, str]) -> str:
    """What was measured on which rows."""
    budget = ", ".join(
        f"{value:g} {word[f'each_{unit}']}" for unit, value in settings["budget"].items() if value is not None
    )
    metrics = ", ".join(f"{target} ({metric})" for target, metric in settings["metrics"].items())
    return word["measured"].format(metrics=metrics, budget=budget, **settings["measured_on"])


def chart(done: Comparison, word: dict[str, str]) -> bytes:
    """A PNG: a bar from low to high for each model, the best on top, a dot at the score."""
    shown = [entry for entry in done.entries if entry.score is not None and entry.interval is not None][::-1]
    metrics = ", ".join(f"{target}: {metric}" for target, metric in done.settings["metrics"].items())
    title = f"{metrics} ({word['interval']})"
    font = _font("".join(entry.name for entry in shown) + title + "".join(word[kind] for kind in COLORS))
    figure = Figure(figsize=(7.5, 1.4 + 0.34 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for place, entry in enumerate(shown):
        _draw(axes, place, entry)
    for entry in shown:
        if entry.kind == "baseline" and entry.score is not None:
            axes.axvline(entry.score, color=COLORS["baseline"], linestyle=":", linewidth=1)
    axes.set_yticks(range(len(shown)), [entry.name for entry in shown], fontproperties=font)
    axes.set_title(title, fontproperties=font, fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.2)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    kinds = [kind for kind in COLORS if any(entry.kind == kind for entry in shown)]
    handles = [axes.plot([], [], color=COLORS[kind], linewidth=5, alpha=0.6)[0] for kind in kinds]
    figure.legend(
        handles, [word[kind] for kind in kinds], prop=font, loc="outside lower right", ncols=len(kinds), frameon=False
    )
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=140)
    return file.getvalue()


def _draw(axes: Any, place: int, entry: Entry) -> None:
    assert entry.interval is not None
    low, high = entry.interval
    axes.plot([low, high], [place, place], color=COLORS[entry.kind], linewidth=7, alpha=0.45, solid_capstyle="butt")
    axes.plot(entry.score, place, "o", color=COLORS[entry.kind], markersize=6)
    axes.annotate(f"{entry.score:.3f}", (high, place), (6, 0), textcoords="offset points", va="center", fontsize=8)


def _font(text: str) -> font_manager.FontProperties:
    """One that has the letters: matplotlib's own, or for Chinese one of this system."""
    if text.isascii():
        return font_manager.FontProperties()
    found = find_font(frozenset(ord(letter) for letter in text if not letter.isspace()))
    return font_manager.FontProperties(fname=str(found)) if found else font_manager.FontProperties()
