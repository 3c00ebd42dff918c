"""report.json and report.html of a model's targets."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from polymodal.errors import ConfigError
from polymodal.evaluate.report import LEFT_OUT_SHOWN, PER_CLASS_SHOWN, Report
from polymodal.evaluate.targets_words import REASONS, target_words
from polymodal.evaluate.words import LANGUAGES

# Shares of rows and words; the other metrics are numbers of their own kind.
PERCENT = ("accuracy", "balanced_accuracy", "f1", "f1_macro", "f1_micro", "precision", "recall", "specificity", "top5",
           "exact_match", "vqa_accuracy", "share")  # fmt: skip
OF_UNITS = ("rmse", "mae")  # in the target's own
LOW_IS_GOOD = (*OF_UNITS, "nll", "brier", "ece")


@dataclass(frozen=True)
class TargetsReport(Report):
    """`pictures` are by "row/input"."""

    def parts(self) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        """((target,), result) of each target."""
        yield from (((name,), result) for name, result in self.data["targets"].items())

    def main(self) -> dict[str, dict[str, Any]]:
        """The main metric of each target: its name, value, low, high and baseline."""
        return {name: {"metric": one["main"], **one["metrics"][one["main"]]} for (name,), one in self.parts()}

    def to_html(self, lang: str = "en") -> str:
        if lang not in LANGUAGES:
            raise ConfigError(f'lang must be one of {", ".join(LANGUAGES)}, got "{lang}"')
        from jinja2 import Environment, PackageLoader, StrictUndefined  # slow, and only a page needs it
        from markupsafe import Markup

        from polymodal.evaluate import targets_plots

        word, other = target_words(lang), target_words("zh" if lang == "en" else "en")
        which = self.data["rows"]["which"]
        plots = {
            name: {kind: Markup(drawn) for kind, drawn in targets_plots.target_plots(name, result).items()}
            for name, result in self.data["targets"].items()
        }
        environment = Environment(
            loader=PackageLoader("polymodal.evaluate"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        environment.filters |= {
            "number": written_metric, "name_of": lambda name: word.get(name, name), "answer": answer,
        }  # fmt: skip
        return environment.get_template("targets.html").render(
            **self.data, word=word, other=other, lang=lang, plots=plots, pictures=self.pictures,
            palette=targets_plots.PALETTE, before=targets_plots.BEFORE, after=targets_plots.AFTER,
            left_out_shown=LEFT_OUT_SHOWN, per_class_shown=PER_CLASS_SHOWN, low_is_good=LOW_IS_GOOD,
            which=REASONS.get(which, which) if lang == "zh" else which,
        )  # fmt: skip


def written_metric(value: float | None, name: str = "share") -> str:
    """A metric's value as people read it: shares in percent, errors in the target's unit, the rest to three places."""
    if value is None:
        return "–"
    if name in PERCENT or not name:
        return f"{100 * value:.1f} %"
    if name in OF_UNITS:
        return plain_number(value)
    return f"{value:.3f}".replace("-0.000", "0.000")


def plain_number(value: float) -> str:
    """Four digits that count, without powers of ten where that can be read."""
    if value == 0 or not 1e-4 <= abs(value) < 1e7:
        return f"{value:.4g}"
    places = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def answer(value: Any) -> str:
    """A target's value as a line of text."""
    if isinstance(value, float):
        return plain_number(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} ({plain_number(score)})" for name, score in value.items())
    if isinstance(value, list):
        return ", ".join("–" if one is None else str(one) for one in value)
    return "–" if value is None else str(value)
