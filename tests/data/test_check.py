"""Every fault, in a table that has it on purpose."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from polymodal.data import Manifest, read
from polymodal.data.check import CheckReport, check, fix
from polymodal.data.faults import Fault
from polymodal.errors import DataError
from tests.data.files import bomb, noise, picture_bytes, write_picture, write_text

_png = picture_bytes(0, "PNG", 300, 200)
BROKEN_PNG = _png[:20_000] + b"\xff" * 200 + _png[20_200:]


def table(folder: Path, rows: list[str], header: str = "image,caption") -> Manifest:
    return read(write_text(folder / "t.csv", header + "\n" + "".join(row + "\n" for row in rows)))


def of_kind(report: CheckReport, kind: str) -> list[Fault]:
    return [fault for fault in report.faults if fault.kind == kind]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, "missing", "there is no such file; correct the path, or give the folder of the pictures"),
        (b"", "empty-file", r"is empty \(0 bytes\); fetch it again or leave it out"),
        (picture_bytes(0, "JPEG", 300, 200)[:-1500], "truncated", r"is damaged or cut off \(image file is truncated"),
        (picture_bytes(0, "PNG", 300, 200)[:-5000], "truncated", r"is damaged or cut off \(image file is truncated"),
        (BROKEN_PNG, "unreadable", "is damaged or cut off"),
        (b"<html>404 not found</html>", "not-a-picture", r"is not a picture \(it looks like a web page\)"),
        (bomb(), "bomb", "has too many pixels"),
    ],
)
def test_pictures_that_cannot_be_used(tmp_path: Path, content: bytes | None, kind: str, message: str) -> None:
    write_picture(tmp_path / "good.png", 5)
    if content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    report = check(table(tmp_path, ["good.png,a dog", "bad.png,a cat", "bad.png,a cow"]))
    assert report.counts("error") == {kind: 2}
    assert [fault.row for fault in of_kind(report, kind)] == [2, 3], "every row that shows it"
    assert of_kind(report, kind)[0].column == "image"
    assert re.search(message, str(of_kind(report, kind)[0]))
    assert report.left_out.tolist() == [2, 3]


def test_a_sound_table_has_no_faults_and_full_statistics(tmp_path: Path) -> None:
    for i in range(4):
        write_picture(tmp_path / f"{i}.png", i)
    report = check(table(tmp_path, [f"{i}.png,一只狗 runs {i},{i % 2}" for i in range(4)], "image,caption,label"))
    assert len(report.faults) == 0
    assert report.rows == 4
    pictures, captions = report.statistics["pictures"], report.statistics["captions"]
    assert (pictures["usable"], pictures["formats"]) == (4, {"PNG": 4})
    assert pictures["width"] == {"min": 24, "median": 24, "p95": 24, "max": 24, "mean": 24}
    assert captions["words"]["median"] == 5, "a Chinese character counts as a word"
    assert (captions["captions"], captions["distinct"], captions["share_with_chinese"]) == (4, 4, 1.0)
    assert report.statistics["categories"]["label"]["largest"] == {"0": 2, "1": 2}


def test_empty_captions(tmp_path: Path) -> None:
    for i in range(3):
        write_picture(tmp_path / f"{i}.png", i)
    lines = ['{"image": "0.png", "captions": ["a", " ", null]}', '{"image": "1.png", "captions": ["\\u3000"]}',
             '{"image": "2.png"}']  # fmt: skip
    report = check(read(write_text(tmp_path / "t.jsonl", "\n".join(lines))))
    assert [(fault.row, fault.severity, fault.reason) for fault in of_kind(report, "empty-caption")] == [
        (1, "warning", "2 of its 3 captions are empty"),
        (2, "error", "it has no caption"),
        (3, "error", "it has no caption"),
    ]


def test_captions_that_are_names_of_files(tmp_path: Path) -> None:
    write_picture(tmp_path / "IMG_001.png", 1)
    write_picture(tmp_path / "b.png", 2)
    report = check(table(tmp_path, ["IMG_001.png,img_001", "b.png,b.png"]))
    assert [fault.row for fault in of_kind(report, "caption-is-file-name")] == [1, 2]
    assert 'the caption "img_001" is the name of its file' in of_kind(report, "caption-is-file-name")[0].reason
    assert len(report.left_out) == 0


def test_wrong_endings_are_warnings(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 1, "JPEG")
    write_picture(tmp_path / "b.jpeg", 2, "JPEG")
    report = check(table(tmp_path, ["a.png,x", "b.jpeg,y"]))
    assert [(fault.row, fault.reason) for fault in of_kind(report, "wrong-ending")] == [
        (1, 'it says ".png" and is JPEG')
    ]
    assert report.counts("error") == {}


def test_cells_without_a_picture(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    report = check(table(tmp_path, ["a.png,x", ",y"]))
    assert [str(fault) for fault in of_kind(report, "no-picture")] == [
        "row 2, image: names no picture; fill the cell or leave the row out"
    ]


def test_duplicates_and_repeated_rows_in_one_split(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 1)
    write_picture(tmp_path / "copy.png", 1)
    write_picture(tmp_path / "b.png", 2)
    report = check(table(tmp_path, ["a.png,x", "b.png,y", "copy.png,z", "a.png,x", "a.png,w", "copy.png,z"]))
    assert [(fault.row, fault.reason) for fault in of_kind(report, "duplicate")] == [
        (3, "its file has the same bytes as that of row 1")
    ]
    assert [(fault.row, fault.reason) for fault in of_kind(report, "repeated")] == [
        (4, "it has the picture and the captions of row 1"),
        (6, "it has the picture and the captions of row 3"),
    ]
    assert report.counts("error") == {}


def test_near_duplicates_are_found_and_other_colors_are_not_alike(tmp_path: Path) -> None:
    noise(1, 200, 150).save(tmp_path / "a.png")
    noise(1, 200, 150).resize((120, 90)).save(tmp_path / "small.jpg", quality=60)
    Image.merge("RGB", noise(1, 200, 150).split()[::-1]).save(tmp_path / "recolored.png")
    noise(2, 200, 150).save(tmp_path / "other.png")
    report = check(table(tmp_path, ["a.png,w", "recolored.png,x", "other.png,y", "small.jpg,z"]))
    assert [(fault.row, fault.reason) for fault in report.faults] == [(4, "it looks like row 1")]


def test_a_picture_in_two_splits_is_an_error_on_the_side_of_training(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 1)
    write_picture(tmp_path / "copy.png", 1)
    write_picture(tmp_path / "b.png", 2)
    rows = ["a.png,x,train", "copy.png,y,test", "b.png,z,val", "a.png,w,val", "b.png,v,val"]
    report = check(table(tmp_path, rows, "image,caption,split"))
    assert [(fault.row, fault.severity) for fault in of_kind(report, "leak")] == [(1, "error"), (4, "error")]
    assert (
        of_kind(report, "leak")[0].reason == 'it is in split "train", and row 2 in split "test" shows the same picture'
    )
    assert "polymodal split --group image" in of_kind(report, "leak")[0].remedy


def test_a_picture_that_looks_the_same_in_two_splits_is_a_warning(tmp_path: Path) -> None:
    noise(1, 200, 150).save(tmp_path / "a.png")
    noise(1, 200, 150).save(tmp_path / "a.jpg")
    report = check(table(tmp_path, ["a.png,x,test", "a.jpg,y,train"], "image,caption,split"))
    [fault] = report.faults
    assert (fault.row, fault.kind, fault.severity) == (2, "near-leak", "warning")
    assert fault.reason == 'it is in split "train", and row 1 in split "test" looks the same'


def test_two_tests_may_share_a_picture(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 1)
    report = check(table(tmp_path, ["a.png,x,test_a", "a.png,y,test_b"], "image,caption,split"))
    assert report.counts("error") == {}
    assert report.counts("warning") == {"leak": 1}


def test_fix_accounts_for_every_row_and_keeps_paths_valid(tmp_path: Path) -> None:
    write_picture(tmp_path / "in/a.png", 1)
    write_picture(tmp_path / "in/图.png", 2)
    (tmp_path / "in/bad.png").write_bytes(b"")
    rows = ["a.png,x", "bad.png,y", "a.png", '图.png,狗 和 "猫"', "gone.png,", "a.png,z"]
    rows[3] = '图.png,"狗, ""猫"""'
    manifest = table(tmp_path / "in", rows)
    report = check(manifest)
    (tmp_path / "out").mkdir()
    fixed = fix(manifest, report, tmp_path / "out/clean")
    assert (report.rows, fixed.kept, fixed.left_out) == (6, 3, 3)
    assert fixed.table == tmp_path / "out/clean.csv", "the format of the source"
    clean = read(fixed.table)
    assert [clean.captions(row) for row in range(3)] == [["x"], ['狗, "猫"'], ["z"]]
    assert clean.image_reference(1) == "../in/图.png"
    assert check(clean).counts("error") == {}
    with fixed.list.open(encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    assert [(entry["row"], entry["kind"]) for entry in listed] == [
        ("2", "empty-file"), ("3", "ragged"), ("5", "empty-caption"), ("5", "missing"),
    ]  # fmt: skip
    assert listed[0]["image"] == "bad.png"
    assert "fetch it again" in listed[0]["remedy"]
    with pytest.raises(DataError, match=r"t\.csv: is the table itself, which is never changed"):
        fix(manifest, report, Path(manifest.source))


def test_fix_with_nothing_left_writes_nothing(tmp_path: Path) -> None:
    manifest = table(tmp_path, ["gone.png,x"])
    with pytest.raises(DataError, match="every one of its 1 rows has an error; nothing was written"):
        fix(manifest, check(manifest), tmp_path / "clean.csv")
    assert not list(tmp_path.glob("clean*"))


def test_a_report_is_plain_values(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png")
    data = json.loads(json.dumps(check(table(tmp_path, ["a.png,x", "b.png,y"])).to_dict()))
    assert (data["rows"], data["usable_rows"], data["errors"]) == (2, 1, {"missing": 1})
    assert data["faults"][0]["row"] == 2


def test_texts_alone_can_be_checked(tmp_path: Path) -> None:
    report = check(read(write_text(tmp_path / "t.csv", "caption,n\na dog,1\n ,2\n")))
    assert report.counts("error") == {"empty-caption": 1}
    assert "pictures" not in report.statistics


def test_truncation_is_seen_however_little_is_missing(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    noise(3, 640, 480).save(buffer, "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue()[: -len(buffer.getvalue()) // 20])
    assert check(table(tmp_path, ["a.jpg,x"])).counts("error") == {"truncated": 1}
