from pathlib import Path

import pytest
from PIL import Image

from polymodal.data.manifest import Manifest
from polymodal.engine import sheet
from polymodal.engine.search import query
from polymodal.engine.sheet import COLUMNS, MARGIN, TEXT, TILE, draw_answers
from polymodal.errors import ConfigError, DataError
from tests.engine import tables


def color_of(drawn: Image.Image, place: int) -> object:
    """In the middle of the picture of an answer."""
    x = MARGIN + place % COLUMNS * (TILE + MARGIN) + TILE // 2
    y = 2 * MARGIN + TEXT + place // COLUMNS * (TILE + sheet.LINES * TEXT + MARGIN) + TILE // 2
    return drawn.getpixel((x, y))


def test_every_answer_has_its_picture_in_order(tmp_path: Path) -> None:
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (9, 9, 9), (90, 90, 0), (0, 90, 90)]
    table = tables.write(tmp_path)
    for row, color in enumerate(colors):
        Image.new("RGB", (40, 30), color).save(tmp_path / f"{row}.png")
    lines = table.read_text(encoding="utf-8").replace('"0.png", "caption": ["a bic', '"3.png", "caption": ["a bic')
    table.write_text(lines, encoding="utf-8")
    manifest = Manifest.read(table)
    answers = query(tables.engine(), manifest, text="a dog", k=6)
    draw_answers(manifest, answers, "一只狗 a dog " * 30, tmp_path / "answers.png")
    with Image.open(tmp_path / "answers.png") as drawn:
        assert [color_of(drawn, place) for place in range(6)] == [colors[hit.place] for hit in answers.hits]


def test_a_text_whose_picture_is_gone_is_drawn_grey(tmp_path: Path) -> None:
    manifest = tables.read(tmp_path)
    answers = query(tables.engine(), manifest, text="a man", want="texts", k=1)
    (tmp_path / "5.png").unlink()
    draw_answers(manifest, answers, "a man", tmp_path / "answers.png")
    with Image.open(tmp_path / "answers.png") as drawn:
        assert color_of(drawn, 0) == sheet.GREY


@pytest.mark.parametrize("text", ["", "a", "word " * 60, "一只很小的狗" * 30, "x" * 500])
def test_lines_are_few_and_fit(text: str) -> None:
    lines = sheet._wrapped(text, 180, 2)
    assert len(lines) <= 2
    assert all(sheet.font().getlength(line) <= 180 for line in lines)
    assert text.replace(" ", "").startswith("".join(lines).replace(" ", "").rstrip("…"))
    assert (len(text) > 60) == bool(lines and lines[-1].endswith("…"))


def test_a_place_that_cannot_be_is_named(tmp_path: Path) -> None:
    manifest = tables.read(tmp_path)
    answers = query(tables.engine(), manifest, text="a dog")
    with pytest.raises(ConfigError, match=r"--sheet answers\.jpg: wanted a name that ends in \.png"):
        draw_answers(manifest, answers, "a dog", Path("answers.jpg"))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written to"):
        draw_answers(manifest, answers, "a dog", tmp_path / "file" / "answers.png")
