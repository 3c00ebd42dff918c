import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polymodal.data import Manifest, read
from polymodal.data.decode import open_image
from polymodal.data.write import write
from polymodal.errors import DataError
from tests.data.files import noise, picture_bytes, write_picture, write_tar, write_text


def first(manifest: Manifest) -> bytes:
    return open_image(manifest.image_reference(0), manifest.root).tobytes()


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_survives_every_format_and_place(tmp_path: Path, ending: str) -> None:
    write_picture(tmp_path / "in/p/图.png", 1)
    text = 'image,caption,n\np/图.png,"a, ""b""\tc\nd",007\np/图.png,狗,\n'
    manifest = read(write_text(tmp_path / "in/t.csv", text))
    again = read(write(manifest, tmp_path / f"out/deep/t{ending}"))
    assert [again.captions(row) for row in range(2)] == [['a, "b"\tc\nd'], ["狗"]]
    assert [again.cell(row, "n") for row in range(2)] == ["007", ""]
    assert first(again) == noise(1).tobytes()


def test_lists_and_bytes_need_a_format_that_holds_them(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([picture_bytes(1)], pa.binary()), "captions": [["a", "b"]]})
    pq.write_table(table, tmp_path / "t.parquet")
    manifest = read(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r'column "image" is large_binary, which CSV cannot hold; write \.parquet or'):
        write(manifest, tmp_path / "o.csv")
    for ending in (".parquet", ".jsonl"):
        again = read(write(manifest, tmp_path / f"o{ending}"))
        assert first(again) == noise(1).tobytes()
        assert again.captions(0) == ["a", "b"]
    assert write(manifest, tmp_path / "bare") == tmp_path / "bare.parquet"
    with pytest.raises(DataError, match=r'unknown ending "\.xlsx"; wanted \.csv, \.tsv, \.jsonl, \.parquet'):
        write(manifest, tmp_path / "o.xlsx")


def test_members_of_tars_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in/0.tar", {"a.png": picture_bytes(1), "a.json": json.dumps({"text": "dog"}).encode()})
    again = read(write(read(tmp_path / "in/0.tar"), tmp_path / "out.csv"))
    assert first(again) == noise(1).tobytes()
    assert again.captions(0) == ["dog"]


def test_absolute_paths_and_addresses_stay(tmp_path: Path) -> None:
    write_picture(tmp_path / "in/a.png", 1)
    (tmp_path / "out").mkdir()
    lines: list[dict[str, str | None]] = [
        {"image": str(tmp_path / "in/a.png"), "c": "x"},
        {"image": "https://x.org/a.png", "c": "y"},
        {"image": None, "c": "z"},
    ]
    manifest = read(
        write_text(tmp_path / "in/t.jsonl", "".join(json.dumps(line) + "\n" for line in lines)), image="image"
    )
    again = read(write(manifest, tmp_path / "out/t.jsonl"), image="image")
    assert again.table.column("image").to_pylist() == [line["image"] for line in lines]
