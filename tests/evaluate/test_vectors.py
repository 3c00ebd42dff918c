"""Which rows are taken, and what fills up the candidates."""

from pathlib import Path

import pytest

from polymodal.data.manifest import Manifest
from polymodal.evaluate import vectors
from polymodal.evaluate.vectors import choose_rows, embed_pictures, embed_texts, rows_to_fill_up
from tests.evaluate import small


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Manifest.read(small.table(tmp_path))


def test_a_split_has_its_other_names_too(manifest: Manifest) -> None:
    assert choose_rows(manifest, "validation", {}) == choose_rows(manifest, "val", {}) == list(range(24, 32))


def test_all_conditions_hold(manifest: Manifest) -> None:
    rows = choose_rows(manifest, "test", {"color": ["red", "blue"], "颜色": ["绿色"]})
    assert {(manifest.cell(row, "split"), manifest.cell(row, "color")) for row in rows} == {("test", "gray")}


@pytest.mark.parametrize("at_once", [1, 5, 1024])
def test_each_picture_is_embedded_once_whatever_the_parts(
    manifest: Manifest, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_ROWS_AT_ONCE", at_once)
    rows = choose_rows(manifest, "test", {})
    pictures, left_out = embed_pictures(small.engine(), manifest, rows, progress=False)
    assert len(pictures.vectors) == len(pictures.rows) == 8
    assert pictures.rows == rows[::2]
    assert [pictures.of_row[row] for row in rows] == [n // 2 for n in range(16)]
    assert left_out == []
    alone = small.engine().embed(images=[manifest.image_reference(rows[6])], root=manifest.root)
    assert pictures.vectors[3] == pytest.approx(alone[0], abs=1e-6)


def test_texts_know_their_rows(manifest: Manifest) -> None:
    texts, _ = embed_texts(small.engine(), manifest, [9, 8], progress=False)
    assert [texts.texts[n] for n in texts.of_row[8]] == ["a red picture, number 4"]
    assert [texts.texts[n] for n in texts.of_row[9]] == ["第4张红色的图片"]


def test_what_fills_up_is_new_and_the_same_for_a_seed(manifest: Manifest) -> None:
    chosen = choose_rows(manifest, "test", {})
    fill = rows_to_fill_up(manifest, chosen, range(len(manifest)), 12, seed=1)
    assert fill == rows_to_fill_up(manifest, chosen, range(len(manifest)), 12, seed=1)
    assert not set(fill) & set(chosen)
    keys = [manifest.image_key(row) for row in fill]
    assert not {manifest.image_key(row) for row in chosen} & set(keys)
    assert len(set(keys)) == len(keys) == 4  # eight pictures are there


def test_only_allowed_rows_fill_up_and_never_more_than_there_are(manifest: Manifest) -> None:
    chosen, allowed = choose_rows(manifest, "test", {}), choose_rows(manifest, "val", {})
    fill = rows_to_fill_up(manifest, chosen, allowed, 1000, seed=0)
    assert set(fill) <= set(allowed)
    assert len(fill) == 4  # a picture of val has two rows


def test_a_row_that_shares_a_text_or_a_picture_with_the_chosen_does_not_fill_up(tmp_path: Path) -> None:
    small.table(tmp_path, 6)
    rows = [("0", "cat"), ("1", "cat"), ("0", "dog"), ("2", "fox"), ("3", "fox"), ("4", "owl")]
    table = small.write(tmp_path / "names.csv", [{"image": f"{n}.png", "name": name} for n, name in rows])
    fill = rows_to_fill_up(Manifest.read(table), [0], range(6), 100, seed=0)
    assert len(fill) == 2
    assert 5 in fill
    assert set(fill) <= {3, 4, 5}  # one of the two foxes
