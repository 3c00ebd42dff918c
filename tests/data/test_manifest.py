"""Every form of source, read as a user would have it on disk."""

import base64
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polymodal.data import Manifest, read
from polymodal.data.decode import open_image
from polymodal.data.manifest import take_rows
from polymodal.errors import DataError
from tests.data.files import noise, picture_bytes, write_picture, write_tar, write_text


def modality(manifest: Manifest, name: str) -> str:
    return next(column.modality for column in manifest.columns if column.name == name)


def shown(manifest: Manifest, row: int) -> bytes:
    """The pixels that the row's cell leads to."""
    return open_image(manifest.image_reference(row), manifest.root).tobytes()


# ---------------------------------------------------------------------------------------------------------------------
# CSV and TSV


def test_csv_columns_are_typed_and_chosen(tmp_path: Path) -> None:
    rows = "".join(f'img/{i}.png,"a dog, number {i}",{i % 2},{i / 2},train,id-{i}\n' for i in range(20))
    table = write_text(tmp_path / "pairs.csv", "filepath,title,label,age,split,uid\n" + rows)
    manifest = read(table)
    assert len(manifest) == 20
    assert (manifest.image, manifest.text, manifest.split_column) == ("filepath", ("title",), "split")
    assert [column.modality for column in manifest.columns] == ["image", "text", "category", "number", "split", "id"]
    assert "100% are paths of pictures" in manifest.columns[0].reason
    assert manifest.captions(3) == ["a dog, number 3"]
    assert manifest.image_reference(3) == "img/3.png"
    assert manifest.root == tmp_path


def test_columns_asked_for_win(tmp_path: Path) -> None:
    table = write_text(tmp_path / "t.csv", "a.x,caption,other,n\na.png,one two,drei vier,1\nb.png,three,fünf,2\n")
    manifest = read(table, text=["other", "n"], image="a.x")
    assert manifest.captions(1) == ["fünf", "2"]
    assert [column.reason for column in manifest.columns if column.modality == "text"][1:] == ["asked for"] * 2


def test_an_unknown_column_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    table = write_text(tmp_path / "t.csv", "image,caption\na.png,dog\n")
    with pytest.raises(
        DataError, match=r'no column is named "captoin"; did you mean "caption"\?; there are: image, cap'
    ):
        read(table, text="captoin")


def test_quoted_newlines_and_quotes(tmp_path: Path) -> None:
    table = write_text(tmp_path / "t.csv", 'image,caption\na.png,"two\nlines and a ""quote"""\nb.png,x\n')
    manifest = read(table)
    assert manifest.captions(0) == ['two\nlines and a "quote"']
    assert manifest.row_numbers.tolist() == [1, 2]


def test_ragged_rows_are_faults_with_their_numbers(tmp_path: Path) -> None:
    table = write_text(tmp_path / "t.csv", "image,caption\na.png,dog\nb.png,a cat, black\n\nc.png\nd.png,cow\n")
    manifest = read(table)
    assert [str(fault) for fault in manifest.faults] == [
        "row 2: it has 3 cells, the header has 2; quote cells that hold the separator, or add the missing ones",
        "row 3: it has 1 cells, the header has 2; quote cells that hold the separator, or add the missing ones",
    ]
    assert manifest.faults.counts() == {"ragged": 2}
    assert manifest.row_numbers.tolist() == [1, 4]
    assert manifest.where(1, "image") == f"{table}: row 4, image"


def test_a_quote_that_never_closes_is_refused_at_its_row(tmp_path: Path) -> None:
    table = write_text(tmp_path / "t.csv", 'image,caption\na.png,dog\nb.png,"cat\nc.png,cow\n')
    with pytest.raises(DataError, match=r't\.csv: row 2 opens a quote \("\) that never closes; close it there'):
        read(table)


@pytest.mark.parametrize(("encoding", "note"), [("utf-8-sig", ""), ("utf-16", "UTF-16"), ("gbk", "GBK")])
def test_chinese_tables_of_any_encoding(tmp_path: Path, encoding: str, note: str) -> None:
    rows = "".join(f"图/{i}.jpg,第{i}只狗在沙滩上奔跑\n" for i in range(5))
    manifest = read(write_text(tmp_path / "t.csv", "图片,描述\n" + rows, encoding))
    assert (manifest.image, manifest.text) == ("图片", ("描述",))
    assert manifest.captions(4) == ["第4只狗在沙滩上奔跑"]
    assert note in " ".join(manifest.notes)


def test_a_broken_byte_names_its_row_and_column(tmp_path: Path) -> None:
    lines = [f"{i}.png,狗{i}".encode() for i in range(9)]
    lines[4] = b"4.png,\xe7\x8b\xff!"
    table = tmp_path / "t.csv"
    table.write_bytes(b"image,caption\n" + b"\n".join(lines) + b"\n")
    manifest = read(table)
    [fault] = manifest.faults
    assert (fault.row, fault.column, fault.kind) == (5, "caption", "encoding")
    assert "it has the byte 0xe7, which is no text in this encoding; save the file as UTF-8" in str(fault)
    assert len(manifest) == 8


def test_an_encoding_can_be_named_and_a_wrong_name_is_refused(tmp_path: Path) -> None:
    table = write_text(tmp_path / "t.csv", "image,caption\na.png,café\n", "latin-1")
    assert read(table, encoding="latin-1").captions(0) == ["café"]
    with pytest.raises(DataError, match='no encoding is named "utf-7b"; use for instance utf-8 or gbk'):
        read(table, encoding="utf-7b")


def test_tsv_of_open_clip_with_lone_quotes(tmp_path: Path) -> None:
    table = write_text(tmp_path / "t.tsv", 'filepath\ttitle\na.jpg\ta 5" pipe\nb.jpg\t"so" he said\nc.jpg\tx\n')
    manifest = read(table)
    assert [manifest.captions(row) for row in range(3)] == [['a 5" pipe'], ['"so" he said'], ["x"]]
    assert "taken as an ordinary character" in manifest.notes[0]


def test_a_table_without_a_header(tmp_path: Path) -> None:
    manifest = read(write_text(tmp_path / "t.tsv", "a.jpg\ta dog\nb.jpg\ta cat\n"))
    assert (manifest.image, manifest.text, len(manifest)) == ("image", ("caption",), 2)
    assert "the first line is data, not a header" in manifest.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty, wanted a header and rows"),
        ("image,caption\n", r"has no row that can be read \(0 faults\)"),
        ("image,caption\na\n", r"has no row that can be read \(1 faults, first: row 1: it has 1 cells"),
        ("image,image\na,b\n", 'the header names "image" twice'),
        ("image,__row__\na,b\n", 'a column is named "__row__"'),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write_text(tmp_path / "t.csv", content))


def test_sources_that_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.csv: there is no such file or folder \(looked in "):
        read(tmp_path / "no.csv")
    with pytest.raises(DataError, match=r'unknown ending "\.xlsx"; wanted \.csv, \.tsv'):
        read(write_text(tmp_path / "t.xlsx", "x"))
    with pytest.raises(DataError, match="there is no such folder of pictures"):
        read(write_text(tmp_path / "t.csv", "image\na.png\n"), images=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no picture in it"):
        read(tmp_path / "empty")


# ---------------------------------------------------------------------------------------------------------------------
# JSON Lines, Parquet, JSON


def test_json_lines_with_late_columns_and_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymodal.data.reading.BATCH_ROWS", 2)
    lines = [
        {"image": "a.png", "caption": "one", "n": 1},
        {"image": "b.png", "caption": "two", "n": 2},
        {"image": "c.png", "caption": ["three", "drei"], "n": 2.5},
        {"image": "d.png", "caption": None, "late": {"x": "狗"}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + "{broken\n[1]\n"
    manifest = read(write_text(tmp_path / "t.jsonl", text))
    assert [manifest.captions(row) for row in range(4)] == [["one"], ["two"], ["three", "drei"], []]
    assert manifest.table.column("n").to_pylist() == [1.0, 2.0, 2.5, None]
    assert manifest.cell(3, "late") == '{"x": "狗"}'
    assert [(fault.row, fault.kind) for fault in manifest.faults] == [(5, "json"), (6, "json")]
    assert "it is not JSON" in manifest.faults[0].reason
    assert manifest.faults[1].reason == "it is a list"


def test_parquet_with_bytes_structs_dictionaries_and_lists(tmp_path: Path) -> None:
    cells = [picture_bytes(seed) for seed in range(3)]
    table = pa.table(
        {
            "photo": pa.array(cells, pa.binary()),
            "hf": [{"bytes": cell, "path": None} for cell in cells],
            "captions": [["a", "", None, " b "], [], ["c"]],
            "label": pa.array(["x", "y", "x"]).dictionary_encode(),
            "set": ["train", "train", "dev"],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    manifest = read(tmp_path / "t.parquet")
    assert (manifest.image, manifest.text, manifest.split_column) == ("photo", ("captions",), "set")
    assert [modality(manifest, name) for name in ("hf", "label")] == ["image", "category"]
    assert manifest.captions(0) == ["a", "b"]
    assert manifest.captions(1) == []
    assert shown(manifest, 2) == noise(2).tobytes()
    assert shown(read(tmp_path / "t.parquet", image="hf"), 1) == noise(1).tobytes()


def test_a_broken_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a whole Parquet file"):
        read(write_text(tmp_path / "t.parquet", "PAR1 no"))


@pytest.mark.parametrize("folder", ["val2017", "images/val2017", "annotations/val2017", "annotations"])
def test_coco_captions_find_their_folder_and_group_captions(tmp_path: Path, folder: str) -> None:
    write_picture(tmp_path / folder / "000001.jpg")
    data = {
        "images": [{"id": 7, "file_name": "000001.jpg"}, {"id": 8, "file_name": "000002.jpg"}, {"id": 9}],
        "annotations": [
            {"image_id": 7, "caption": "a dog"},
            {"image_id": 8, "caption": "a cat"},
            {"image_id": 7, "caption": "the dog"},
            {"image_id": 99, "caption": "lost"},
        ],
    }
    (tmp_path / "annotations").mkdir(exist_ok=True)
    manifest = read(write_text(tmp_path / "annotations/captions_val2017.json", json.dumps(data)))
    assert manifest.captions(0) == ["a dog", "the dog"]
    assert shown(manifest, 0) == noise(0).tobytes()
    assert (manifest.faults[0].row, manifest.faults[0].kind) == (3, "json")
    assert any("1 image_ids have captions but no entry in images, first: 99" in note for note in manifest.notes)


def test_karpathy_one_file_counts_restval_as_train(tmp_path: Path) -> None:
    def image(split: str, name: str) -> dict[str, object]:
        sentences = [{"raw": f"{name} {i}"} for i in range(5)]
        return {"filepath": "val2014", "filename": name, "split": split, "sentences": sentences, "cocoid": 1}

    data = {"images": [image("restval", "a.jpg"), image("test", "b.jpg"), image("train", "c.jpg")], "dataset": "coco"}
    manifest = read(write_text(tmp_path / "dataset_coco.json", json.dumps(data)), images=tmp_path)
    assert manifest.splits() == {"train": 2, "test": 1}
    assert len(manifest.captions(1)) == 5
    assert manifest.image_reference(1).endswith("val2014/b.jpg")  # type: ignore[arg-type]
    assert any("restval" in note for note in manifest.notes)


def test_lavis_list_repeats_an_image_for_every_caption(tmp_path: Path) -> None:
    rows = [{"image": "./val/a.jpg", "caption": "one"}, {"image": "val/a.jpg", "caption": "two"}]
    manifest = read(write_text(tmp_path / "t.json", json.dumps(rows)))
    assert manifest.image_key(0) == manifest.image_key(1)


def test_json_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"wanted COCO captions .* got the keys 'a', 'b'"):
        read(write_text(tmp_path / "t.json", '{"a": 1, "b": 2}'))
    with pytest.raises(DataError, match=r"is not JSON .*; JSON Lines need the ending \.jsonl"):
        read(write_text(tmp_path / "t.json", '{"a": 1}\n{"a": 2}\n'))


# ---------------------------------------------------------------------------------------------------------------------
# Folders and tars


def test_image_folder_with_and_without_splits(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "train/dog/1.png", "val/cat/2.png", "val/cat/.hidden.png", "val/cat/notes.txt"):
        write_picture(tmp_path / "a" / name)
    manifest = read(tmp_path / "a")
    assert manifest.table.column("image").to_pylist() == ["train/cat/1.png", "train/dog/1.png", "val/cat/2.png"]
    assert manifest.table.column("category").to_pylist() == ["cat", "dog", "cat"]
    assert manifest.splits() == {"train": 2, "val": 1}
    assert manifest.text == ()


def test_folder_with_metadata_in_its_subfolders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_picture(tmp_path / split / "x.png")
        write_text(tmp_path / split / "metadata.jsonl", '{"file_name": "x.png", "text": "a dog"}\n')
    manifest = read(tmp_path)
    assert [manifest.image_reference(row) for row in range(2)] == ["test/x.png", "train/x.png"]
    assert manifest.splits() == {"test": 1, "train": 1}
    assert manifest.row_numbers.tolist() == [1, 2]
    assert shown(manifest, 1) == noise(0).tobytes()
    write_text(tmp_path / "train/metadata.jsonl", '{"file_name": "x.png", "label": 3}\n')
    assert read(tmp_path).table.column("label").to_pylist() == [None, 3]


def test_folders_whose_metadata_does_not_fit(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_text(tmp_path / name / "metadata.csv", f"file_name,{name}\nx.png,1\n")
    with pytest.raises(
        DataError, match=r"its tables have different columns \(.*'b'\] after .*'a'\]\); make them equal"
    ):
        read(tmp_path)
    write_text(tmp_path / "a/metadata.csv", "name\nx.png\n")
    with pytest.raises(DataError, match=r'metadata\.csv: has no column "file_name"'):
        read(tmp_path)


def test_webdataset_tars_by_brace_folder_and_file(tmp_path: Path) -> None:
    for shard in range(2):
        members: dict[str, bytes] = {}
        for sample in range(2):
            key = f"{shard}{sample}"
            members[f"{key}.jpg"] = picture_bytes(shard * 2 + sample, "PNG")
            members[f"{key}.txt"] = f"caption {key} 狗\n".encode()
            members[f"{key}.json"] = json.dumps({"width": 24, "uid": key}).encode()
        write_tar(tmp_path / f"{shard:03}.tar", members)
    for source in (tmp_path / "{000..001}.tar", tmp_path):
        manifest = read(source)
        assert len(manifest) == 4
        assert manifest.captions(3) == ["caption 11 狗"]
        assert shown(manifest, 3) == noise(3).tobytes()
        assert manifest.cell(2, "uid") == "10"
    reference = read(tmp_path / "001.tar").image_reference(1)
    assert isinstance(reference, str)
    assert reference.startswith("001.tar#11.jpg@")
    assert open_image("001.tar#11.jpg", tmp_path).tobytes() == noise(3).tobytes()
    with pytest.raises(DataError, match=r"1 of 3 files are missing, first: .*002\.tar"):
        read(tmp_path / "{000..002}.tar")


def test_a_cut_tar_and_a_broken_member_are_faults(tmp_path: Path) -> None:
    good = {"a.jpg": picture_bytes(), "a.txt": b"dog", "b.jpg": picture_bytes(), "b.json": b"{", "c.jpg": b"x" * 5000}
    content = write_tar(tmp_path / "x.tar", good).read_bytes()
    (tmp_path / "x.tar").write_bytes(content[: content.index(b"x" * 5000) + 2000])
    manifest = read(tmp_path / "x.tar")
    assert manifest.captions(0) == ["dog"]
    assert [(fault.row, fault.kind) for fault in manifest.faults] == [(2, "encoding"), (3, "archive")]
    assert "b.json cannot be read" in manifest.faults[0].reason
    assert "x.tar is cut off here" in manifest.faults[1].reason
    assert len(manifest) == 1


# ---------------------------------------------------------------------------------------------------------------------
# URLs whose files are local


@pytest.mark.parametrize("header", ["", "url\tcaption\n"])
def test_url_table_finds_files_by_name_and_counts_the_rest(tmp_path: Path, header: str) -> None:
    write_picture(tmp_path / "images/0/a b.jpg", 1)
    write_picture(tmp_path / "images/twice.jpg")
    rows = [
        ("https://x.org/p/a%20b.jpg?size=2", "one"),
        ("https://x.org/gone.jpg", "two"),
        ("https://x.org/1/twice.jpg", "three"),
        ("https://x.org/2/twice.jpg", "four"),
    ]
    table = write_text(tmp_path / "sbu.tsv", header + "".join(f"{url}\t{text}\n" for url, text in rows))
    manifest = read(table)
    assert len(manifest) == 1
    assert shown(manifest, 0) == noise(1).tobytes()
    assert manifest.captions(0) == ["one"]
    assert [(fault.row, fault.kind) for fault in manifest.faults] == [
        (2, "not-fetched"), (3, "ambiguous"), (4, "ambiguous"),
    ]  # fmt: skip
    assert 'no file here is named "gone.jpg", with which the URL ends; fetch it' in str(manifest.faults[0])
    write_picture(tmp_path / "images/gone.jpg")
    assert len(read(table)) == 2, "a file that came later is found"


def test_url_table_without_any_file_has_no_picture_column(tmp_path: Path) -> None:
    manifest = read(write_text(tmp_path / "t.tsv", "https://x.org/a.jpg\tdog\n"))
    assert (manifest.image, manifest.text) == (None, ("caption",))
    with pytest.raises(
        DataError, match=r"no column holds pictures; name it by image \(there are: url \(url\), caption"
    ):
        manifest.image_reference(0)


# ---------------------------------------------------------------------------------------------------------------------
# Cells, selections, the cache


def test_base64_and_data_uri_cells(tmp_path: Path) -> None:
    plain = base64.b64encode(picture_bytes(1)).decode()
    table = write_text(tmp_path / "t.csv", f'pic,caption\n{plain},a dog\n"data:image/png;base64,{plain}",a cat\n')
    manifest = read(table)
    assert manifest.image == "pic"
    assert shown(manifest, 0) == shown(manifest, 1) == noise(1).tobytes()


def test_cells_without_one_picture(tmp_path: Path) -> None:
    lines = [{"images": ["a.png"]}, {"images": ["a.png", "b.png"]}, {"images": []}]
    manifest = read(write_text(tmp_path / "t.jsonl", "".join(json.dumps(line) + "\n" for line in lines)))
    assert manifest.image_reference(0) == "a.png"
    with pytest.raises(DataError, match=r"t\.jsonl: row 2, images: has 2 pictures, wanted one"):
        manifest.image_reference(1)
    with pytest.raises(DataError, match=r"row 3, images: names no picture; fill the cell or leave the row out"):
        manifest.image_reference(2)


def test_selections_keep_row_numbers_and_nest(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,caption {i},{'train' if i % 2 else 'dev'}\n" for i in range(10))
    manifest = read(write_text(tmp_path / "t.csv", "image,caption,split\n" + rows))
    train = manifest.split("train")
    assert train.row_numbers.tolist() == [2, 4, 6, 8, 10]
    inner = train.select([4, 0])
    assert inner.row_numbers.tolist() == [10, 2]
    assert inner.captions(0) == ["caption 9"]
    assert inner.table.column("image").to_pylist() == ["9.png", "1.png"]
    assert len(train.select(np.array([True, False, False, False, True]))) == 2
    assert manifest.split("val").row_numbers.tolist() == manifest.select("validation").row_numbers.tolist() == [
        1, 3, 5, 7, 9,
    ]  # fmt: skip
    again = pickle.loads(pickle.dumps(inner))
    assert (len(again), again.captions(1)) == (2, ["caption 1"])
    with pytest.raises(DataError, match=r'no split is named "test"; there are: dev \(5 rows\), train \(5 rows\)'):
        manifest.split("test")
    with pytest.raises(DataError, match="places must be in 0 to 9, got -1 to 3"):
        manifest.select([3, -1])
    with pytest.raises(DataError, match="a mask of 2 for 10 rows"):
        manifest.select(np.array([True, False]))
    with pytest.raises(DataError, match=r'no column is named "imag"; did you mean "image"\?'):
        manifest.column("imag")


def test_a_split_without_a_split_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='no column says what is in split "val"; make one by `polymodal split`'):
        read(write_text(tmp_path / "t.csv", "image,caption\na.png,dog\n")).split("val")


def test_a_second_reading_uses_the_cache_and_a_changed_source_does_not(tmp_path: Path, cache: Path) -> None:
    table = write_text(tmp_path / "t.csv", "image,caption\na.png,dog\n")
    read(table)
    [first] = cache.glob("tables/*.arrow")
    stamp = first.stat().st_mtime_ns
    assert read(table).captions(0) == ["dog"]
    assert first.stat().st_mtime_ns == stamp
    write_text(table, "image,caption\na.png,a cow\n")
    assert read(table).captions(0) == ["a cow"]
    [second] = cache.glob("tables/*.arrow")
    assert second != first, "the stale table goes"


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_text(tmp_path / "t.csv", "image,caption\na.png,dog\n")
    monkeypatch.setenv("POLYMODAL_CACHE", str(table))
    with pytest.raises(DataError, match=r"cannot be written to \(.*\); make room there, or set POLYMODAL_CACHE"):
        read(table)


def test_rows_are_taken_across_chunks_in_any_order() -> None:
    table = pa.Table.from_batches(
        [pa.record_batch({"x": list(range(s, s + 7)), "y": [[str(s)]] * 7}) for s in (0, 7, 14)]
    )
    for places in ([20, 0, 7, 6, 20, 13], [], [8], list(range(21)), [3, 5, 18]):
        taken = take_rows(table, np.array(places, np.int64))
        assert taken.column("x").to_pylist() == places
        assert taken.column("y").to_pylist() == [[str(place // 7 * 7)] for place in places]


@pytest.mark.slow
def test_memory_stays_flat_as_rows_grow() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/manifest_memory.py", "--rows", "500000"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert result["rows"] == 500_000
    # The table is 42 MB of text; what is mapped counts as resident too.
    assert result["peak_rss_mib"] - result["of_that_imports_mib"] < 150
