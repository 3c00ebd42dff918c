from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polymodal.data import contact_sheet, read
from polymodal.data.augment import Augment, ImageAugment
from polymodal.data.contact_sheet import Fonts
from polymodal.data.preview import sheet
from polymodal.errors import DataError
from polymodal.preprocess import ImagePreprocess
from tests.data.files import write_text


def flat(folder: Path, colors: list[tuple[int, int, int]]) -> Path:
    for place, color in enumerate(colors):
        Image.new("RGB", (64, 64), color).save(folder / f"{place}.png")
    rows = "".join(f"{place}.png,number {place}\n" for place in range(len(colors)))
    return write_text(folder / "t.csv", "image,caption\n" + rows)


def test_every_row_is_on_the_sheet_in_its_order(tmp_path: Path) -> None:
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    drawn = sheet(read(flat(tmp_path, colors)), columns=3)
    middle = [drawn.image.getpixel((x, 100)) for x in (110, 316, 522)]
    assert middle == colors
    assert drawn.notes == ()
    captions = np.asarray(drawn.image.convert("L"))[contact_sheet.TILE + contact_sheet.GAP + 20 :]
    assert (captions < 60).any(), "captions are in dark ink"


def test_with_augmentation_a_line_is_the_picture_and_what_epochs_see(tmp_path: Path) -> None:
    manifest = read(flat(tmp_path, [(200, 0, 0), (0, 200, 0)]))
    augment = Augment(image=ImageAugment(brightness=0.9))
    drawn = sheet(manifest, augment=augment, preprocess=ImagePreprocess(size=32), columns=4, seed=3)
    line = [drawn.image.getpixel((110 + 206 * place, 100)) for place in range(4)]
    assert line[0] == (200, 0, 0)
    assert len(set(line)) == 4
    again = sheet(manifest, augment=augment, preprocess=ImagePreprocess(size=32), columns=4, seed=3)
    assert again.image.tobytes() == drawn.image.tobytes()


def test_a_picture_that_cannot_be_read_is_shown_as_such(tmp_path: Path) -> None:
    manifest = read(write_text(tmp_path / "t.csv", "image,caption\ngone.png,x\n"))
    for augment in (None, Augment()):
        drawn = sheet(manifest, augment=augment)
        assert drawn.image.getpixel((contact_sheet.GAP, contact_sheet.GAP)) == contact_sheet.RED


def test_characters_without_a_font_are_said_and_never_drawn_as_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", list)
    contact_sheet.find_font.cache_clear()
    fonts = Fonts("a 狗 b")
    assert "".join(piece for piece, _ in fonts.runs("a 狗狗 b")) == "a [?] b"
    [note] = fonts.notes()
    assert note.startswith("1 characters are in no font here and drawn as [?] (U+72D7, ...); for Chinese install")
    contact_sheet.find_font.cache_clear()


def test_long_captions_wrap_and_end_in_dots() -> None:
    fonts = Fonts("")
    lines = fonts.wrap("one two three four five six seven eight nine ten " * 3, 100, 3)
    assert len(lines) == 3
    assert lines[2].endswith("...")
    assert all(fonts.width(line) <= 100 for line in lines)
    assert fonts.wrap("", 100, 3) == [""]
    assert len(fonts.wrap("w" * 300, 100, 3)) == 3


def test_a_table_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column holds pictures; name it by image"):
        sheet(read(write_text(tmp_path / "t.csv", "caption,n\na dog,1\n")))
