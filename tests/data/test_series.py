from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polymodal.data.faults import CellError
from polymodal.data.series import read_series


def test_a_series_is_the_same_from_every_source(tmp_path: Path) -> None:
    steps = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "a.npy", steps)
    np.savez(tmp_path / "a.npz", anything=steps)
    sources: list[Any] = [
        steps,
        steps.tolist(),
        "[[0, 1], [2, 3], [4, 5]]",
        "a.npy",
        " a.npz ",
        (tmp_path / "a.npy").read_bytes(),
    ]
    for source in sources:
        assert read_series(source, tmp_path).tolist() == steps.tolist()
    assert read_series([1, 2, 3]).tolist() == [[1], [2], [3]]


def test_what_is_not_finite_is_nan() -> None:
    found = read_series([[1, None], [float("inf"), 1e300]])
    assert np.isnan(found).tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("gone.npy", "gone.npy: there is no such file; correct the path"),
        ("text.npy", r"text.npy: is no file of NumPy arrays \(.*\); save it by numpy.save"),
        ("two.npz", r"two.npz: holds 2 arrays \(a, b\), wanted one; save each as a .npy"),
        ("objects.npy", r"objects.npy: is no file of NumPy arrays \(Object arrays cannot be loaded"),
        ("deep.npy", r"is of shape \(1, 2, 3\) and type float64, wanted numbers of shape \(steps, channels\)"),
        ("empty.npy", r"is of shape \(0, 2\) and type float64, wanted numbers"),
        ([[1, 2], [3]], "the cell: holds lists of unequal lengths, or something that is no number; give every step"),
        (["a"], "holds lists of unequal lengths, or something that is no number"),
    ],
)  # fmt: skip
def test_what_is_no_series_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    (tmp_path / "text.npy").write_text("no array")
    np.savez(tmp_path / "two.npz", a=np.zeros(2), b=np.zeros(2))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "deep.npy", np.zeros((1, 2, 3)))
    np.save(tmp_path / "empty.npy", np.zeros((0, 2)))
    with pytest.raises(CellError, match=message):
        read_series(value, tmp_path)


def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymodal.data.series.MAX_UNPACKED", 1000)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1000))
    with pytest.raises(CellError, match="it unpacks to 8128 bytes, at most 1000 are read"):
        read_series("a.npz", tmp_path)
