from pathlib import Path

from tests.cli.running import Run
from tests.data.files import write_picture, write_text


def pairs(folder: Path, rows: str) -> Path:
    for i in range(3):
        write_picture(folder / f"{i}.png", i)
    return write_text(folder / "pairs.csv", "image,caption,label\n" + rows)


def test_a_sound_table_says_what_is_in_it(tmp_path: Path, run: Run) -> None:
    done = run("check", pairs(tmp_path, "0.png,a dog,x\n1.png,一只猫,y\n2.png,a cow,x\n"))
    assert done.code == 0
    assert "3 rows, 3 usable" in done.out
    assert "100% are paths of pictures" in done.out
    assert "2 values: x 2, y 1" in done.out
    assert "no errors" in done.out


def test_faults_are_listed_and_the_exit_code_is_1(tmp_path: Path, run: Run) -> None:
    done = run("check", pairs(tmp_path, "0.png,a dog,x\ngone.png,cat,y\n2.png, ,x\n1.png\n"))
    assert done.code == 1
    assert "3 errors: missing 1, empty-caption 1, ragged 1" in done.out
    assert "error [missing] row 2, image: there is no such file; correct the path" in done.out
    short = run("check", tmp_path / "pairs.csv", "--show", 1)
    assert "... and 2 more: --show 3 or --json" in short.out


def test_json_has_every_fault(tmp_path: Path, run: Run) -> None:
    done = run("check", pairs(tmp_path, "0.png,a dog,x\ngone.png,cat,y\n"), "--json")
    assert done.code == 1
    assert done.json()["errors"] == {"missing": 1}
    assert done.json()["faults"][0]["row"] == 2


def test_fix_says_how_many_rows_it_kept(tmp_path: Path, run: Run) -> None:
    table = pairs(tmp_path, "0.png,a dog,x\ngone.png,cat,y\n2.png,c,x\n")
    done = run("check", table, "--fix", tmp_path / "clean.csv", "--json")
    assert done.code == 1
    assert f"kept 2 of 3 rows: {tmp_path / 'clean.csv'}" in done.err
    assert "left out 1 rows" in done.err
    assert done.json()["fixed"]["left_out"] == 1
    assert run("check", tmp_path / "clean.csv").code == 0


def test_columns_can_be_named(tmp_path: Path, run: Run) -> None:
    done = run("check", pairs(tmp_path, "0.png,a dog,x\n"), "--text", "label", "--text", "caption", "--json")
    assert done.json()["statistics"]["captions"]["captions"] == 2
    done = run("check", tmp_path / "pairs.csv", "--image", "picture")
    assert done.code == 1
    assert 'no column is named "picture"; there are: image, caption, label' in done.err
