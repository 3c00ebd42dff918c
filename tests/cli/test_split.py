from pathlib import Path

from polymodal.data import read
from tests.cli.running import Run
from tests.data.files import write_text


def pairs(folder: Path) -> Path:
    rows = "".join(f"{i}.png,caption {i},patient {i // 4}\n" for i in range(40))
    return write_text(folder / "pairs.csv", "image,caption,patient\n" + rows + "ragged\n")


def test_the_split_is_written_and_reported(tmp_path: Path, run: Run) -> None:
    done = run("split", pairs(tmp_path), "--out", tmp_path / "split.csv", "--group", "patient", "--seed", 3)
    assert done.code == 0
    assert "10 groups by patient, none on two sides" in done.out
    assert "1 rows could not be read and are not in it, first: row 41: it has 1 cells" in done.err
    assert read(tmp_path / "split.csv").splits() == {"train": 32, "val": 4, "test": 4}


def test_json(tmp_path: Path, run: Run) -> None:
    done = run("split", pairs(tmp_path), "--out", tmp_path / "s.jsonl", "--ratio", "3:1", "--column", "part", "--json")
    assert done.json()["splits"]["val"] == {"rows": 10, "share": 0.25, "wanted": 0.25}
    assert read(tmp_path / "s.jsonl", split_column="part").splits() == {"train": 30, "val": 10}


def test_a_split_column_that_is_there_is_replaced_and_that_is_said(tmp_path: Path, run: Run) -> None:
    done = run("split", pairs(tmp_path), "--out", tmp_path / "s.csv", "--column", "patient")
    assert 'its column "patient" takes the place of the one that was there' in done.err


def test_a_ratio_that_is_none(tmp_path: Path, run: Run) -> None:
    done = run("split", pairs(tmp_path), "--out", tmp_path / "s.csv", "--ratio", "a:b")
    assert done.code == 2
    assert '--ratio: wanted numbers with colons between them such as 8:1:1, got "a:b"' in done.err
