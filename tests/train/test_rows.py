"""How a table is divided, and which pictures are the same."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polymodal.data.manifest import Manifest
from polymodal.errors import ConfigError, DataError
from polymodal.train.prepare import read_table
from polymodal.train.recipe import DataConfig
from polymodal.train.rows import Division, divide, picture_numbers, usable
from tests.train.toy import table


def manifest(folder: Path, rows: list[dict[str, Any]], **options: Any) -> Manifest:
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return Manifest.read(folder / "t.csv", image="image", text="caption", **options)


def divided(found: Manifest, **config: Any) -> Division:
    return divide(found, picture_numbers(found), DataConfig(**config), seed=0)


def captioned(count: int, each: int = 1, **more: Any) -> list[dict[str, Any]]:
    return [
        {"image": f"{n}.png", "caption": f"picture {n}, said {k}", **{name: value(n) for name, value in more.items()}}
        for n in range(count)
        for k in range(each)
    ]


def test_rows_that_show_one_picture_stay_together(tmp_path: Path) -> None:
    found = manifest(tmp_path, captioned(20, each=3))
    train, val, reason = divided(found, val_fraction=0.25)
    numbers = picture_numbers(found)
    assert len(val) == 15
    assert len(train) == 45
    assert not set(numbers[train]) & set(numbers[val])
    assert reason == "25% held out by picture"
    assert np.array_equal(val, divided(found, val_fraction=0.25).val)


def test_rows_of_one_group_stay_together(tmp_path: Path) -> None:
    found = manifest(tmp_path, captioned(24, author=lambda n: f"author {n % 6}"))
    train, val, reason = divided(found, val_fraction=0.34, group="author")
    authors = np.array(found.column("author").to_pylist())
    assert len(set(authors[val])) == 2
    assert not set(authors[train]) & set(authors[val])
    assert reason == "34% held out by author"


def test_a_split_column_decides(tmp_path: Path) -> None:
    kinds = ["train", "valid", "test", "train"]
    found = manifest(tmp_path, captioned(12, split=lambda n: kinds[n % 4]))
    train, val, reason = divided(found)
    assert train.tolist() == [0, 3, 4, 7, 8, 11]
    assert val.tolist() == [1, 5, 9]
    assert reason == 'column "split"'


def test_without_validation_rows_in_the_column_some_training_pictures_are_held_out(tmp_path: Path) -> None:
    found = manifest(tmp_path, captioned(20, split=lambda n: "train" if n < 10 else "test"))
    train, val, _ = divided(found, val_fraction=0.2)
    assert len(val) == 2
    assert set(train) | set(val) == set(range(10))
    assert len(divided(found, val_fraction=0).val) == 0


def test_validation_has_a_limit(tmp_path: Path) -> None:
    found = manifest(tmp_path, captioned(20, each=2, split=lambda n: "val" if n < 12 else "train"))
    assert len(divided(found, val_limit=5).val) == 10  # five pictures with two captions each


def test_a_split_column_without_training_rows_is_refused(tmp_path: Path) -> None:
    found = manifest(tmp_path, captioned(6, split=lambda n: "test"))
    with pytest.raises(DataError, match=r'column "split" has no row of train.*there are: test \(6 rows\).*data\.train'):
        divided(found)


def test_pictures_are_numbered_by_first_appearance(tmp_path: Path) -> None:
    names = ["b.png", "a.png", "b.png", "c.png"]
    found = manifest(tmp_path, [{"image": name, "caption": f"a text {k}"} for k, name in enumerate(names)])
    assert picture_numbers(found).tolist() == [0, 1, 0, 2]


def test_rows_without_a_picture_belong_to_no_other(tmp_path: Path) -> None:
    names = ["b.png", "", "b.png", None, ""]
    found = manifest(tmp_path, [{"image": name, "caption": f"a text {k}"} for k, name in enumerate(names)])
    numbers = picture_numbers(found)
    assert numbers[0] == numbers[2] >= 0
    assert len({*numbers[[1, 3, 4]].tolist()}) == 3
    assert (numbers[[1, 3, 4]] < 0).all()


def test_what_a_check_found_is_remembered_until_it_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "cache"))
    file = table(tmp_path, count=6, broken=(1, 4))
    said: list[str] = []
    good, faults = usable(Manifest.read(file), said.append)
    bad = sorted({fault.row for fault in faults})
    assert len(good) == 4
    assert len(bad) == 2
    manifest = Manifest.read(file)
    pictures = [file.parent / str(manifest.image_reference(row)) for row in range(6)]
    pictures[bad[0] - 1].write_bytes(pictures[next(row for row in range(6) if row + 1 not in bad)].read_bytes())
    good, faults = usable(Manifest.read(file), said.append)
    assert {fault.row for fault in faults} == {bad[1]}
    assert len(good) == 5
    assert len(said) == 1  # the whole table was looked at once


def test_excluded_rows_take_no_part(tmp_path: Path) -> None:
    kinds = ["flag", "food", "toy"]
    manifest(tmp_path, captioned(12, kind=lambda n: kinds[n % 3]))
    options = {"table": str(tmp_path / "t.csv"), "image": "image", "text": "caption"}
    kept = read_table(DataConfig(**options, exclude={"kind": ("flag", "toy")}))
    assert kept.row_numbers.tolist() == [2, 5, 8, 11]
    with pytest.raises(ConfigError, match='exclude kind="flags": no row has it; did you mean "flag"'):
        read_table(DataConfig(**options, exclude={"kind": ("flags",)}))
