"""What was measured: numbers by name, report.json, and report.html that needs no other file."""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from polymodal.data.decode import open_image
from polymodal.data.manifest import Manifest
from polymodal.errors import ConfigError, DataError
from polymodal.evaluate.retrieve import WAYS
from polymodal.evaluate.words import LANGUAGES, words

THUMBNAIL = 112  # pixels of the longer side
LEFT_OUT_SHOWN = 20  # rows; all of them are in report.json
PER_CLASS_SHOWN = 40


@dataclass(frozen=True)
class Report:
    data: dict[str, Any]  # what report.json holds
    pictures: Mapping[Any, str]  # row -> the thumbnail of an example as a data: address

    @property
    def metrics(self) -> dict[str, float]:
        """Every value by its path, for instance "retrieval/image_to_text/R@1" or "zero-shot/accuracy"."""
        return {
            "/".join((*path, name)): measure["value"]
            for path, part in self.parts()
            for name, measure in part["metrics"].items()
        }

    def parts(self) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        """(path, result) of whatever has metrics of its own: both ways of retrieval, each kind of classification."""
        for task, result in self.data["tasks"].items():
            if task == "retrieval":
                yield from (((task, way), result[way]) for way in WAYS)
            else:
                yield (task,), result

    def write(self, folder: str | Path, lang: str = "en") -> Path:
        """Write report.json and report.html; gives back the path of the page.

        Raises:
            DataError: the folder cannot be written.
        """
        page = self.to_html(lang)
        target = Path(folder)
        try:
            target.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.data, indent=1, ensure_ascii=False, allow_nan=False)
            (target / "report.json").write_text(text + "\n", encoding="utf-8")
            (target / "report.html").write_text(page, encoding="utf-8")
        except OSError as error:
            raise DataError(f"{target}: the report cannot be written ({error.strerror})") from None
        return target / "report.html"

    def to_html(self, lang: str = "en") -> str:
        """The page, in English ("en") or Chinese ("zh").

        Raises:
            ConfigError: another language.
        """
        if lang not in LANGUAGES:
            raise ConfigError(f'lang must be one of {", ".join(LANGUAGES)}, got "{lang}"')
        from jinja2 import Environment, PackageLoader, StrictUndefined  # slow, and only a page needs it
        from markupsafe import Markup

        from polymodal.evaluate import plots

        word = words(lang)
        tiles = [(word[path[-1]], *next(iter(part["metrics"].items()))) for path, part in self.parts()]
        other = words("zh" if lang == "en" else "en")
        retrieval = self.data["tasks"].get("retrieval")
        drawn: dict[str, Markup] = {}
        if retrieval:
            ways = {way: retrieval[way] for way in WAYS}
            drawn["recall"] = Markup(plots.recall_plot(ways))
            drawn["ranks"] = Markup(plots.ranks_plot(ways))
            drawn["cosines"] = Markup(plots.cosines_plot(retrieval["cosines"]))
        environment = Environment(
            loader=PackageLoader("polymodal.evaluate"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        environment.filters |= {"number": written, "name_of": lambda name: word.get(name, name)}
        return environment.get_template("report.html").render(
            **self.data, word=word, other=other, lang=lang, tiles=tiles, plots=drawn, colors=plots.COLORS,
            pictures=self.pictures, left_out_shown=LEFT_OUT_SHOWN,
            per_class_shown=PER_CLASS_SHOWN,
        )  # fmt: skip


def written(value: float | None, name: str) -> str:
    """A metric's value as people read it: ranks as numbers, the rest in percent."""
    if value is None:
        return "–"
    if "rank" in name:
        return f"{value:.1f}".removesuffix(".0")
    return f"{100 * value:.1f} %"


def thumbnails(manifest: Manifest, retrieval: dict[str, Any] | None) -> dict[int, str]:
    """The pictures that the examples of retrieval show, by row number, small, as data: addresses."""
    examples = [e for way in WAYS for kind in retrieval[way]["examples"].values() for e in kind] if retrieval else []
    rows = {item["row"] for e in examples for item in (e["query"], *e["wanted"], *e["got"]) if "row" in item}
    places = np.flatnonzero(np.isin(manifest.row_numbers, sorted(rows)))
    return {int(manifest.row_numbers[place]): _thumbnail(manifest, int(place)) for place in places}


def _thumbnail(manifest: Manifest, row: int) -> str:
    return small(open_image(manifest.image_reference(row), manifest.root))


def small(picture: Image.Image) -> str:
    """A thumbnail of an upright picture, which is made small itself, as a data: address."""
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
