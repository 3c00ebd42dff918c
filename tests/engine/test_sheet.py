from pathlib import Path

import pytest
from PIL import Image

from polymodal.data.contact_sheet import GAP, LINE, RED, TILE
from polymodal.data.manifest import Manifest
from polymodal.engine.search import query
from polymodal.engine.sheet import COLUMNS, draw_answers
from polymodal.errors import ConfigError, DataError
from tests.engine import tables


def color_of(drawn: Image.Image, place: int) -> object:
    """In the middle of the picture of an answer."""
    x = GAP + place % COLUMNS * (TILE + GAP) + TILE // 2
    y = (
        2 * GAP
        + LINE
        + TILE // 2
        + (drawn.height - TILE if place >= COLUMNS else 0)
        - (2 * GAP + LINE + LINE + GAP if place >= COLUMNS else 0)
    )
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


def test_a_text_whose_picture_is_gone_says_so(tmp_path: Path) -> None:
    manifest = tables.read(tmp_path)
    answers = query(tables.engine(), manifest, text="a man", want="texts", k=1)
    (tmp_path / "5.png").unlink()
    draw_answers(manifest, answers, "a man", tmp_path / "answers.png")
    with Image.open(tmp_path / "answers.png") as drawn:
        assert drawn.getpixel((GAP, 2 * GAP + LINE)) == RED


def test_a_place_that_cannot_be_is_named(tmp_path: Path) -> None:
    manifest = tables.read(tmp_path)
    answers = query(tables.engine(), manifest, text="a dog")
    with pytest.raises(ConfigError, match=r"--sheet answers\.jpg: wanted a name that ends in \.png"):
        draw_answers(manifest, answers, "a dog", Path("answers.jpg"))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written to"):
        draw_answers(manifest, answers, "a dog", tmp_path / "file" / "answers.png")
