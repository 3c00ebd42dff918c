from pathlib import Path

from PIL import Image

from tests.cli.running import Run
from tests.data.files import write_picture, write_text


def pairs(folder: Path) -> Path:
    for i in range(3):
        write_picture(folder / f"{i}.png", i)
    rows = "".join(f"{i}.png,caption {i},{'test' if i else 'train'}\n" for i in range(3))
    return write_text(folder / "pairs.csv", "image,caption,split\n" + rows)


def test_a_sheet_is_written(tmp_path: Path, run: Run) -> None:
    done = run("preview", pairs(tmp_path), "--out", tmp_path / "sheet.png", "--split", "test", "--json")
    assert done.code == 0
    assert done.json() == {"out": str(tmp_path / "sheet.png"), "rows": 2, "notes": []}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_augmentation_by_settings(tmp_path: Path, run: Run) -> None:
    plain = run("preview", pairs(tmp_path), "--out", tmp_path / "a.png", "--rows", 1)
    augmented = run("preview", tmp_path / "pairs.csv", "--out", tmp_path / "b.png", "--rows", 1,
                    "--augment", "image.flip=0.5", "--augment", "image.scale=[0.3, 1]", "--size", 16)  # fmt: skip
    assert (plain.code, augmented.code) == (0, 0)
    with Image.open(tmp_path / "a.png") as one, Image.open(tmp_path / "b.png") as six:
        assert six.width > 5 * one.width


def test_augmentation_of_a_recipe(tmp_path: Path, run: Run) -> None:
    done = run("preview", pairs(tmp_path), "--out", tmp_path / "a.png", "--rows", 1, "--recipe", "clip")
    assert done.code == 0
    with Image.open(tmp_path / "a.png") as six:
        assert six.width > 1000
    done = run("preview", tmp_path / "pairs.csv", "--out", tmp_path / "b.png", "--rows", 1, "--recipe", "clip-tiny")
    assert "recipe clip-tiny has no augmentation: pictures are shown as they are used" in done.err


def test_an_unknown_setting_is_refused(tmp_path: Path, run: Run) -> None:
    done = run("preview", pairs(tmp_path), "--out", tmp_path / "a.png", "--augment", "image.flop=1")
    assert done.code == 2
    assert '--augment: unknown key "image.flop"; did you mean "flip"?' in done.err
