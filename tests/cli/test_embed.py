import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import polymodal as pm
from polymodal import machine
from polymodal.data.cache import cache_folder
from tests.cli.running import Run

ROWS = [1, 2, 3, 4, 5, 6]


@pytest.fixture
def pictures(saved: Path, table: Path) -> np.ndarray:
    files = [table.parent / f"{number}.png" for number in (0, 1, 2, 0, 4, 5)]
    vectors: np.ndarray = pm.load(saved).embed(images=files)
    return vectors


def test_npz_holds_one_vector_for_each_row(run: Run, saved: Path, table: Path, pictures: np.ndarray) -> None:
    out = table.parent / "out.npz"
    done = run("embed", saved, table, "--out", out)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"6 vectors of 8 numbers: {out}\n"
    with np.load(out) as found:
        assert found["vectors"].dtype == np.float32
        np.testing.assert_allclose(found["vectors"], pictures, atol=1e-6)
        assert found["rows"].tolist() == ROWS
        assert found["captions"].tolist() == [0] * 6
    assert sorted(file.name for file in out.parent.iterdir() if "out" in file.name) == ["out.npz"]


def test_npy_holds_the_vectors_and_a_second_file_the_rows(
    run: Run, saved: Path, table: Path, pictures: np.ndarray
) -> None:
    out = table.parent / "out.npy"
    done = run("embed", saved, table, "--out", out, "--json")
    assert done.json() == {"out": str(out), "vectors": 6, "width": 8, "left_out": 0, "faults": None}
    np.testing.assert_allclose(np.load(out), pictures, atol=1e-6)
    assert np.load(out.with_suffix(".rows.npy")).tolist() == ROWS


def test_parquet_holds_every_text_with_its_row_and_vector(run: Run, saved: Path, table: Path) -> None:
    out = table.parent / "out.parquet"
    done = run("embed", saved, table, "--texts", "--out", out, "--json")
    assert (done.code, done.json()["vectors"]) == (0, 7)
    found = pq.read_table(out)
    assert found.column_names == ["row", "caption", "text", "vector"]
    assert found["row"].to_pylist() == [1, 2, 3, 3, 4, 5, 6]
    assert found["caption"].to_pylist() == [0, 0, 0, 1, 0, 0, 0]
    assert found["text"].to_pylist()[:4] == ["a dog on the beach", "两只猫", "a dog on the beach", "又一只狗"]
    expected = pm.load(saved).embed(texts=found["text"].to_pylist())
    np.testing.assert_allclose(np.array(found["vector"].to_pylist()), expected, atol=1e-6)


def test_parquet_names_the_pictures(run: Run, saved: Path, table: Path) -> None:
    out = table.parent / "out.parquet"
    run("embed", saved, table, "--out", out)
    assert pq.read_table(out)["picture"].to_pylist() == ["0.png", "1.png", "2.png", "0.png", "4.png", "5.png"]


def test_rows_that_fail_are_told_written_down_and_set_the_exit_code(
    run: Run, saved: Path, table: Path, pictures: np.ndarray
) -> None:
    (table.parent / "1.png").write_bytes((table.parent / "1.png").read_bytes()[:200])
    (table.parent / "4.png").unlink()
    out = table.parent / "out.npz"
    done = run("embed", saved, table, "--out", out, "--json")
    faults = table.parent / "out.npz.faults.jsonl"
    assert done.code == 1
    assert done.json() == {"out": str(out), "vectors": 4, "width": 8, "left_out": 2, "faults": str(faults)}
    with np.load(out) as found:
        assert found["rows"].tolist() == [1, 3, 4, 6]
        np.testing.assert_allclose(found["vectors"], pictures[[0, 2, 3, 5]], atol=1e-6)
    written = [json.loads(line) for line in faults.read_text(encoding="utf-8").splitlines()]
    assert [(fault["row"], fault["column"]) for fault in written] == [(2, "image"), (5, "image")]
    assert "is damaged or cut off" in written[0]["reason"]
    assert written[0]["remedy"] == "fetch it again or leave it out"
    assert "there is no such file" in written[1]["reason"]
    assert f"left out of {table}: 2" in done.err
    assert f"all of them: {faults}" in done.err


def test_faults_of_an_earlier_run_go_when_there_are_none_any_more(run: Run, saved: Path, table: Path) -> None:
    picture, out = table.parent / "1.png", table.parent / "out.npy"
    whole = picture.read_bytes()
    picture.write_bytes(b"")
    assert run("embed", saved, table, "--out", out).code == 1
    picture.write_bytes(whole)
    assert run("embed", saved, table, "--out", out).code == 0
    assert not out.with_name("out.npy.faults.jsonl").exists()


def test_a_column_can_be_named_and_a_missing_one_is_refused(run: Run, saved: Path, table: Path) -> None:
    out = table.parent / "out.npz"
    assert run("embed", saved, table, "--out", out, "--texts", "--text", "caption").code == 0
    done = run("embed", saved, table, "--out", out, "--image", "picture")
    assert done.code == 1
    assert "picture" in done.err


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("vectors.csv", "--out vectors.csv: wanted a name that ends in .npz, .npy, .parquet"),
        ("no/such/folder/a.npz", "there is no folder no/such/folder; make it first"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(run: Run, out: str, message: str) -> None:
    done = run("embed", "no-artifact", "no-table", "--out", out)
    assert done.code == 2
    assert message in done.err


def test_bfloat16_gives_nearly_the_same(run: Run, saved: Path, table: Path, pictures: np.ndarray) -> None:
    out = table.parent / "out.npz"
    assert run("embed", saved, table, "--out", out, "--precision", "bfloat16").code == 0
    with np.load(out) as found:
        assert ((found["vectors"] * pictures).sum(1) > 0.999).all()


def test_vectors_are_kept_and_taken_from_before_when_asked(run: Run, saved: Path, table: Path, tmp_path: Path) -> None:
    for out in ("a.npy", "b.npy"):
        assert run("embed", saved, table, "--texts", "--cache", "--out", tmp_path / out).code == 0
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    assert (cache_folder() / "vectors.sqlite").exists()


def test_a_precision_that_the_cpu_lacks_is_said(
    run: Run, saved: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "knows_bfloat16", lambda: False)
    done = run("embed", saved, table, "--texts", "--precision", "bfloat16", "--out", tmp_path / "a.npy")
    assert done.code == 0
    assert "note: precision bfloat16: this CPU has no bfloat16 instructions" in done.err
