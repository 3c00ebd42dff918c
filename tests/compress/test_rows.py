from pathlib import Path

import pytest

from polymodal.compress.rows import Divided, divide
from polymodal.data.manifest import Manifest
from polymodal.errors import DataError
from tests.evaluate import small


def divided(folder: Path, table: Manifest | Path, **options: object) -> Divided:
    given = {"split": None, "exclude": {}, "images": None, "seed": 0} | options
    return divide(folder / "nothing", table, **given)  # type: ignore[arg-type]


def numbers(manifest: Manifest) -> set[int]:
    return set(manifest.row_numbers.tolist())


def test_splits_say_which_rows_do_what(tmp_path: Path) -> None:
    file = small.table(tmp_path)
    found = divided(tmp_path, file)
    table = Manifest.read(file)
    assert numbers(found.measured) == numbers(table.split("test"))
    assert numbers(found.train) == numbers(table.split("train"))
    on_val = divided(tmp_path, file, split="val")
    assert numbers(on_val.measured) == numbers(table.split("val"))
    assert "val" in on_val.which


def test_without_splits_one_half_is_measured_and_the_other_learned_from(tmp_path: Path) -> None:
    lines = [
        {key: value for key, value in line.items() if key != "split"} for line in small.read(small.table(tmp_path))
    ]
    file = small.write(tmp_path / "plain.csv", lines)
    found = divided(tmp_path, file)
    assert len(found.measured) == len(found.train) == 24
    assert not numbers(found.measured) & numbers(found.train)
    assert "no column of splits" in found.notes[0]
    assert numbers(found.measured) == numbers(divided(tmp_path, file).measured)
    assert numbers(found.measured) != numbers(divided(tmp_path, file, seed=1).measured)


def test_where_all_rows_are_measured_they_are_learned_from_too_and_that_is_told(tmp_path: Path) -> None:
    found = divided(tmp_path, small.table(tmp_path), split="all")
    assert numbers(found.measured) == numbers(found.train)
    assert any("the numbers are somewhat too good" in note for note in found.notes)


def test_excluded_rows_are_in_neither(tmp_path: Path) -> None:
    found = divided(tmp_path, small.table(tmp_path), exclude={"color": ["red"]})
    for part in (found.train, found.measured):
        assert "red" not in part.column("color").to_pylist()


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    lines = small.read(small.table(tmp_path))
    for nth, line in enumerate(lines):
        line["split"] = "test" if nth == 0 else "train"
    with pytest.raises(DataError, match="wanted at least 2 rows to measure on, got 1"):
        divided(tmp_path, small.write(tmp_path / "one.csv", lines))
    with pytest.raises(DataError, match='"nose"'):
        divided(tmp_path, tmp_path / "one.csv", split="nose")
