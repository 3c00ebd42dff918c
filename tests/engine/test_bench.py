from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polymodal import artifact
from polymodal.engine.bench import Agreement, Bench, Time, _near, bench
from polymodal.engine.bench_plot import draw
from polymodal.errors import ConfigError, DataError
from tests import tiny


@pytest.fixture
def small(tmp_path: Path) -> Path:
    how: Any = {"model": tiny.clip(), "tokenizer": tiny.tokenizer(), "preprocess": tiny.preprocess()}
    return artifact.save(tmp_path / "small", **how)


def test_it_times_and_compares_what_this_machine_can_do(small: Path) -> None:
    found = bench(small, backends=["torch"], batches=[1, 2], seconds=0.01)
    assert found.times.keys() == found.agreements.keys() == {"image", "text"}
    for columns in found.times.values():
        assert all(sizes.keys() == {1, 2} for sizes in columns.values())
        assert all(0 < one.low <= one.median <= one.high for sizes in columns.values() for one in sizes.values())
    assert found.agreements["text"]["torch", "float32"] == pytest.approx((1, 1, 1), abs=1e-6)
    assert "random inputs" in found.rows
    first = found.to_dict()["results"][0]
    assert first["rows_a_second"][2] == pytest.approx(2 / found.times["image"]["torch", "float32"][2].median)
    assert first["agreement"]["same"] == 1


def test_rows_of_a_table_are_compared_and_bad_ones_left_aside(small: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.full((20, 20, 3), ord(name), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"nothing")
    (tmp_path / "pairs.csv").write_text("image,caption\na.png,a dog\nb.png,two cats\nc.png,a dog\n")
    found = bench(small, tmp_path / "pairs.csv", backends=["torch"], batches=[1], seconds=0.01)
    assert found.times.keys() == {"image", "text"}
    assert "256 rows at most of" in found.rows


def test_a_table_without_anything_to_answer_is_refused(small: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("image,caption\nno.png,\ngone.png,\n")
    with pytest.raises(DataError, match="none of the first 256 rows has a picture or a text that can be used"):
        bench(small, tmp_path / "empty.csv", backends=["torch"], seconds=0.01)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"backends": ["tensorrt"]}, 'bench: no backend is called "tensorrt"; there are torch, openvino, onnx'),
        ({"batches": [0]}, r"bench: wanted batch sizes of at least 1, got \[0\]"),
        ({"batches": []}, r"bench: wanted batch sizes of at least 1, got \[\]"),
    ],
)
def test_what_makes_no_sense_is_refused(small: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench(small, **how)


def test_agreement_of_vectors_labels_and_values() -> None:
    angles = np.array([0.0, 0.1, 0.3, 2.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    turned = angles + np.array([0, 0.15, 0, 0])
    turned = np.stack([np.cos(turned), np.sin(turned)], 1)
    found = _near(vectors, turned)
    assert found.least == pytest.approx(np.cos(0.15))
    assert found.mean == pytest.approx((3 + np.cos(0.15)) / 4)
    assert found.same == 0.75  # the second is now nearest to the third

    chances = np.array([[0.9, 0.1], [0.4, 0.6]])
    assert _near(chances, chances[:, ::-1]).same == 0
    assert _near(chances, chances) == pytest.approx((1, 1, 1))

    values = np.array([1.0, 3.0])  # spread 1
    assert _near(values, values + np.array([0.0, 0.5])) == pytest.approx((0.75, 0.5, 0.5))


def test_noise_is_the_middle_half_of_the_calls() -> None:
    times = {"image": {("torch", "float32"): {1: Time(1.0, 0.9, 1.1), 8: Time(2.0, 1.5, 2.5)}}}
    found = Bench("here", 1, "rows", times, {"image": {("torch", "float32"): Agreement(1, 1, 1)}}, ())  # type: ignore[arg-type]
    assert found.noise == pytest.approx((0.2 + 0.5) / 2)


def test_the_plot_is_a_picture(small: Path, tmp_path: Path) -> None:
    draw(bench(small, backends=["torch"], batches=[1, 2], seconds=0.01), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 600
