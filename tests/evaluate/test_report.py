"""report.json and report.html: all that was measured, in files that need nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from polymodal.errors import DataError
from polymodal.evaluate import Report, evaluate
from polymodal.evaluate.report import written
from polymodal.evaluate.words import WORDS, words
from tests.evaluate import small


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("table")
    rows = small.read(small.table(folder))
    rows[8]["caption"] = '<script>alert("a&b")</script>'
    (folder / "5.png").write_bytes(b"")
    table = small.write(folder / "pairs.csv", rows)
    return evaluate(small.engine(), table, split="test", label="颜色", by="颜色", candidates=10)


class Page(HTMLParser):
    """The addresses, tags and words of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} is closed and was not the last one opened"

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_needs_no_other_file_and_runs_nothing(report: Report, lang: str) -> None:
    page = Page(report.to_html(lang))
    assert page.open == []
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert all(re.match(r"data:image/webp;base64,|#", address) for address in page.addresses)
    assert "url(http" not in report.to_html(lang)
    assert page.tags.count("svg") == 3


def test_the_page_holds_every_number_and_every_text_as_it_is(report: Report) -> None:
    said = Page(report.to_html()).words
    for path, part in report.parts():
        for name, measure in part["metrics"].items():
            assert written(measure["value"], name) in said, path
    assert '<script>alert("a&b")</script>' in said
    assert "第4张红色的图片" in said
    assert "绿色" in said
    assert "is empty" in said  # the picture that was left out


def test_the_page_speaks_chinese(report: Report) -> None:
    page = report.to_html("zh")
    assert '<html lang="zh">' in page
    for word in ("以图搜文", "零样本分类", "95% 置信区间", "最差示例", "未计入的行"):
        assert word in page


def test_every_word_is_used_and_has_both_languages() -> None:
    templates = Path("src/polymodal/evaluate/templates")
    source = "".join((templates / name).read_text("utf-8") for name in ("report.html", "parts.html"))
    named = {"accuracy", "top5", "f1_macro", "median_rank", "mean_rank", "image_to_text", "text_to_image"}  # in results
    named |= {"zero-shot", "probe", "knn", "matched", "unmatched", "hits", "misses", "hits_note", "misses_note"}
    unused = {key for key in WORDS if key not in named and not re.search(rf'word\.{key}\b|"{key}"', source)}
    assert not unused
    assert all(words("en").values())
    assert all(re.search(r"[\u4e00-\u9fff]", word) for word in words("zh").values())


def test_the_json_is_strict_and_gives_the_page_again(report: Report, tmp_path: Path) -> None:
    report.write(tmp_path / "out")
    text = (tmp_path / "out" / "report.json").read_text("utf-8")
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert "红色" in text
    assert Report(read, report.pictures).to_html() == report.to_html()
    assert read["artifact"]["checksum"] == small.engine().checksum
    assert read["rows"]["left_out"][0]["row"] == 11
    assert read["settings"]["candidates"] == 10
    assert read["versions"].keys() == {"polymodal", "torch", "numpy", "scikit-learn"}


def test_metrics_are_named_by_their_path(report: Report) -> None:
    assert report.metrics["zero-shot/accuracy"] == report.data["tasks"]["zero-shot"]["metrics"]["accuracy"]["value"]
    assert {name.rpartition("/")[0] for name in report.metrics} == {
        "retrieval/image_to_text", "retrieval/text_to_image", "zero-shot", "probe", "knn",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [(0.7312, "R@1", "73.1 %"), (3.0, "median_rank", "3"), (2.51, "mean_rank", "2.5"), (None, "f1_macro", "–")],
)
def test_values_as_people_read_them(value: float | None, name: str, expected: str) -> None:
    assert written(value, name) == expected


def test_a_folder_that_cannot_be_made_is_refused(report: Report, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DataError, match="out: the report cannot be written"):
        report.write(tmp_path / "out")
