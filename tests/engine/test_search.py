import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from polymodal.data.manifest import Manifest
from polymodal.engine import search
from polymodal.engine.engine import Engine, Vectors
from polymodal.engine.search import nearest, query, table_vectors
from polymodal.errors import ConfigError, DataError
from tests.engine import tables


@pytest.fixture
def engine() -> Engine:
    return tables.engine()


def cached(tmp_path: Path) -> list[str]:
    return sorted(file.name for file in (tmp_path / "cache" / "vectors").iterdir())


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 40), st.just(2)), elements=st.sampled_from([-1, -0.5, 0, 0.5, 1])
    ),
    st.integers(1, 45),
    st.sampled_from([1, 3, 7, 1000]),
)
def test_the_nearest_are_those_of_a_sorted_list(vectors: Vectors, k: int, block: int) -> None:
    asked = np.array([1, -0.5], np.float32)
    scores = [float(row[0] * 1 + row[1] * -0.5) for row in vectors]
    expected = sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:k]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "BLOCK", block)
        places, found = nearest(asked, vectors, k)
    assert places.tolist() == expected
    assert found.tolist() == [scores[place] for place in expected]


def test_a_text_finds_the_picture_with_the_largest_cosine(engine: Engine, tmp_path: Path) -> None:
    manifest = tables.read(tmp_path)
    answers = query(engine, manifest, text="a dog on the beach", k=3)
    cosines = engine.similarity([tmp_path / f"{row}.png" for row in (0, 1, 2, 4, 5)], ["a dog on the beach"])[:, 0]
    best = sorted(zip(cosines.tolist(), (1, 2, 3, 5, 6), strict=True), reverse=True)[:3]
    assert [hit.row for hit in answers.hits] == [row for _, row in best]
    assert [hit.score for hit in answers.hits] == pytest.approx([score for score, _ in best], abs=1e-6)
    assert answers.searched == 5  # row 4 shows the picture of row 1
    assert all(hit.image == f"{hit.place}.png" for hit in answers.hits)


def test_a_picture_finds_itself_first(engine: Engine, tmp_path: Path) -> None:
    first = query(engine, tables.read(tmp_path), image=tmp_path / "2.png", k=1).hits[0]
    assert first.score == pytest.approx(1, abs=1e-6)
    assert (first.row, first.image, first.texts) == (3, "2.png", ["a dog on the beach", "又一只狗"])


def test_a_picture_finds_texts_and_equal_ones_once(engine: Engine, tmp_path: Path) -> None:
    answers = query(engine, tables.read(tmp_path), image=tmp_path / "2.png", want="texts", k=100)
    found = {hit.texts[0]: hit.row for hit in answers.hits}
    assert found == {"a dog on the beach": 1, "两只猫": 2, "又一只狗": 3, "a bicycle": 4, "a red sofa": 5, "a man": 6}
    cosines = engine.similarity([tmp_path / "2.png"], list(found))[0]
    assert [hit.score for hit in answers.hits] == pytest.approx(cosines.tolist(), abs=1e-6)


def test_a_text_finds_itself(engine: Engine, tmp_path: Path) -> None:
    first = query(engine, tables.read(tmp_path), text="又一只狗", want="texts", k=1).hits[0]
    assert (first.texts, first.row) == (["又一只狗"], 3)
    assert first.score == pytest.approx(1, abs=1e-6)


def test_the_second_question_computes_no_table(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = query(engine, tables.read(tmp_path), text="a dog")
    monkeypatch.setattr(search, "embed_table", None)
    again = query(tables.engine(), Manifest.read(tmp_path / "pairs.jsonl"), text="a dog")
    assert again.hits == first.hits
    assert isinstance(table_vectors(engine, Manifest.read(tmp_path / "pairs.jsonl"), "images").vectors, np.memmap)


def test_a_changed_picture_is_seen_and_the_old_vectors_go(engine: Engine, tmp_path: Path) -> None:
    query(engine, tables.read(tmp_path), text="a dog")
    (before,) = cached(tmp_path)
    other = (tmp_path / "5.png").read_bytes()
    (tmp_path / "1.png").write_bytes(other)
    os.utime(tmp_path / "1.png", ns=(1, 1))
    answers = query(engine, Manifest.read(tmp_path / "pairs.jsonl"), image=tmp_path / "5.png", k=2)
    assert [hit.row for hit in answers.hits] == [2, 6]
    assert [hit.score for hit in answers.hits] == pytest.approx([1, 1], abs=1e-6)
    assert len(cached(tmp_path)) == 1
    assert cached(tmp_path) != [before]


def test_another_model_table_selection_or_want_has_other_vectors(engine: Engine, tmp_path: Path) -> None:
    manifest = tables.read(tmp_path)
    query(engine, manifest, text="a dog")
    query(engine, manifest, text="a dog", want="texts")
    from tests import tiny

    other = Engine(tiny.clip(temperature=0.5), tiny.tokenizer(), tiny.preprocess(), device="cpu")
    query(other, manifest, text="a dog")
    assert len(cached(tmp_path)) == 3
    answers = query(engine, manifest.select([5, 1]), image=tmp_path / "1.png", k=9)
    assert [hit.row for hit in answers.hits] == [2, 6]


def test_what_cannot_be_read_is_reported_now_and_from_the_cache(engine: Engine, tmp_path: Path) -> None:
    table = tables.write(tmp_path)
    (tmp_path / "1.png").write_bytes(b"<html>")
    (tmp_path / "4.png").unlink()
    for _ in range(2):
        answers = query(engine, Manifest.read(table), text="a dog", k=9)
        assert sorted(hit.row for hit in answers.hits) == [1, 3, 6]
        assert [(fault.row, fault.column) for fault in answers.faults] == [(2, "image"), (5, "image")]
        assert "is not a picture (it looks like a web page)" in answers.faults[0].reason
        assert "there is no such file" in str(answers.faults[1])


def test_a_failed_computation_leaves_no_half_vectors(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(search, "embed_table", interrupted)
        with pytest.raises(KeyboardInterrupt):
            query(engine, tables.read(tmp_path), text="a dog")
    assert cached(tmp_path) == []
    assert query(engine, tables.read(tmp_path), text="a dog").searched == 5


def test_a_cache_that_cannot_be_written_is_named(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tables.read(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"vectors: cannot be written to \(Not a directory\); .*set POLYMODAL_CACHE"):
        query(engine, manifest, text="a dog")


def test_questions_put_wrongly_are_refused(engine: Engine, tmp_path: Path) -> None:
    manifest = tables.read(tmp_path)
    with pytest.raises(ConfigError, match="give a text or an image as the question, one of the two"):
        query(engine, manifest)
    with pytest.raises(ConfigError, match="k must be at least 1, got 0"):
        query(engine, manifest, text="a dog", k=0)
    with pytest.raises(DataError, match="query: the question cannot be used: the text is empty"):
        query(engine, manifest, text=" ")
    with pytest.raises(DataError, match=r"query: the question cannot be used: .*no\.png: there is no such file"):
        query(engine, manifest, image=tmp_path / "no.png")


def test_a_table_without_pictures_or_texts_says_what_it_has(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("caption,price\na dog on the beach,1\na cat on a sofa,2\n")
    manifest = Manifest.read(tmp_path / "texts.csv")
    with pytest.raises(DataError, match=r"texts\.csv: no column holds pictures, .* it has: caption \(text\), price"):
        query(engine, manifest, text="a dog")
    assert query(engine, manifest, text="a dog on the beach", want="texts").hits[0].row == 1
    (tmp_path / "pictures.csv").write_text("image\n0.png\n1.png\n")
    tables.write(tmp_path)
    pictures = Manifest.read(tmp_path / "pictures.csv")
    with pytest.raises(DataError, match=r"pictures\.csv: no column holds texts, .* it has: image \(image\)"):
        query(engine, pictures, text="a dog", want="texts")
    assert query(engine, pictures, text="a dog").hits[0].texts == []


def test_a_table_of_broken_pictures_only_shows_the_first_fault(engine: Engine, tmp_path: Path) -> None:
    table = tables.write(tmp_path)
    for file in tmp_path.glob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"none of the 6 rows has images that can be used, first: row 1, image: .*is empty"
    ):
        query(engine, Manifest.read(table), text="a dog")
