import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from polymodal.engine import Engine
from polymodal.engine.backends import Arrays
from polymodal.engine.vector_cache import VectorCache, content_of
from polymodal.errors import DataError
from tests import tiny


def named(number: int) -> bytes:
    return number.to_bytes(32, "big")


def vector(number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.full(6, number, np.float32)


def test_what_was_put_is_there_again_and_in_another_process_too(tmp_path: Path) -> None:
    with VectorCache(tmp_path / "v.sqlite") as cache:
        cache.put({named(number): vector(number) for number in range(1200)})
        found = cache.get([*(named(number) for number in range(1100, 1300))])
    assert found.keys() == {named(number) for number in range(1100, 1200)}
    assert all(np.array_equal(value, vector(int.from_bytes(key, "big"))) for key, value in found.items())
    with VectorCache(tmp_path / "v.sqlite") as other:
        assert np.array_equal(other.get([named(7)])[named(7)], vector(7))


def test_those_that_were_not_asked_for_the_longest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("polymodal.engine.vector_cache.time.time", lambda: now[0])
    one = len(named(0)) + vector(0).nbytes
    with VectorCache(tmp_path / "v.sqlite", max_bytes=10 * one) as cache:
        for number in range(10):
            now[0] += 1
            cache.put({named(number): vector(number)})
        now[0] += 1
        cache.get([named(0)])
        now[0] += 1
        cache.put({named(10): vector(10)})
        assert len(cache) == 9
        assert cache.get(named(number) for number in range(11)).keys() == {
            named(number) for number in (0, *range(3, 11))
        }


def test_several_threads_share_it(tmp_path: Path) -> None:
    with VectorCache(tmp_path / "v.sqlite") as cache, ThreadPoolExecutor(8) as pool:

        def work(number: int) -> bool:
            cache.put({named(number): vector(number)})
            return np.array_equal(cache.get([named(number)])[named(number)], vector(number))

        assert all(pool.map(work, range(64)))
        assert len(cache) == 64


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "v.sqlite").write_text("hello, I am no database at all, and long enough to be looked at" * 50)
    with pytest.raises(DataError, match=r"v\.sqlite: the cache of vectors cannot be used \(file is not a database\)"):
        VectorCache(tmp_path / "v.sqlite")


def test_equal_content_has_one_name_whatever_it_comes_as(tmp_path: Path) -> None:
    array = np.arange(75, dtype=np.uint8).reshape(5, 5, 3)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    (tmp_path / "b.png").write_bytes(stream.getvalue())
    same = [content_of(item, tmp_path) for item in (stream.getvalue(), "a.png", tmp_path / "b.png")]
    assert same[0] is not None
    assert len(set(same)) == 1
    kinds = [content_of(item, tmp_path) for item in (array, array + 1, array[:, :4], Image.fromarray(array))]
    assert len({*kinds, *same}) == 5
    assert content_of("gone.png", tmp_path) is content_of(3, tmp_path) is None
    assert content_of("tars/a.tar#1.jpg", tmp_path) is None


def test_an_engine_computes_what_it_has_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny.clip(), tiny.tokenizer(), tiny.preprocess(), device="cpu", cache=VectorCache())
    plain = Engine(tiny.clip(), tiny.tokenizer(), tiny.preprocess(), device="cpu")
    pictures = [np.full((20, 20, 3), number, np.uint8) for number in (0, 90, 200)]
    texts = ["a dog", "two cats", "一只狗在沙滩上"]
    first = engine.embed(images=pictures[:2]), engine.embed(texts=texts[:2])

    asked: list[str] = []
    run = engine.backend.run

    def note(graph: str, arrays: Arrays) -> dict[str, NDArray[np.generic]]:
        asked.append(graph)
        return run(graph, arrays)

    monkeypatch.setattr(engine.backend, "run", note)
    again = engine.embed(images=[pictures[1].copy(), pictures[0].copy()]), engine.embed(texts=texts[1::-1])
    assert asked == []
    assert np.array_equal(again[0], first[0][::-1])
    assert np.array_equal(again[1], first[1][::-1])

    mixed = engine.embed(images=[pictures[2], *pictures, b"no picture"], on_error="report")
    assert mixed.rows.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(mixed.vectors, plain.embed(images=[pictures[2], *pictures]), atol=1e-6)
    np.testing.assert_allclose(engine.embed(texts=texts), plain.embed(texts=texts), atol=1e-6)
    assert asked == ["image", "text"]


def test_another_model_has_other_vectors() -> None:
    ours = Engine(tiny.clip(), tiny.tokenizer(), tiny.preprocess(), device="cpu", cache=VectorCache())
    other = Engine(tiny.clip(text=tiny.text_config(layers=1)), tiny.tokenizer(), tiny.preprocess(), device="cpu",
                   cache=VectorCache())  # fmt: skip
    assert not np.allclose(ours.embed(texts=["a dog"]), other.embed(texts=["a dog"]))
