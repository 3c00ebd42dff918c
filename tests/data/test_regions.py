from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polymodal.data.faults import CellError
from polymodal.data.regions import read_regions

FEATURES = np.arange(6.0).reshape(2, 3)
BOXES = np.array([[0, 0, 0.5, 1], [0.25, 0.5, 1, 1]])


def test_boxes_in_pixels_become_shares(tmp_path: Path) -> None:
    pixels = BOXES * [200, 100, 200, 100]
    np.savez(
        tmp_path / "a.npz", features=FEATURES, boxes=pixels, image_w=200, image_h=100, cls_prob=np.ones((2, 5)) / 5
    )
    found = read_regions("a.npz", tmp_path)
    assert found.boxes.tolist() == BOXES.tolist()
    assert found.features.tolist() == FEATURES.tolist()
    assert found.classes is not None
    assert found.classes.shape == (2, 5)


@pytest.mark.parametrize("value", [
    {"features": FEATURES.tolist(), "boxes": BOXES.tolist()},
    {"x": FEATURES, "bbox": BOXES},
    '{"features": [[0, 1, 2], [3, 4, 5]], "boxes": [[0, 0, 0.5, 1], [0.25, 0.5, 1, 1]]}',
])  # fmt: skip
def test_a_mapping_is_as_good_as_a_file(value: Any) -> None:
    found = read_regions(value)
    assert found.boxes.tolist() == BOXES.tolist()
    assert found.features.tolist() == FEATURES.tolist()
    assert found.classes is None


def test_a_box_that_is_rounded_over_the_edge_is_cut() -> None:
    found = read_regions({"features": FEATURES[:1], "boxes": [[-0.005, 0, 1.005, 1]]})
    assert found.boxes.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": None}, r"has no features or no boxes \(it has features\); save both by numpy.savez"),
        ({"boxes": BOXES[:1]}, r"has features \(2, 3\), boxes \(1, 4\), wanted \(R, F\), \(R, 4\) and \(R, K\)"),
        ({"features": FEATURES[0]}, r"has features \(3,\), boxes \(2, 4\), wanted"),
        ({"features": FEATURES * np.nan}, "has features or boxes that are not finite; make it again"),
        ({"boxes": BOXES * 50}, "has boxes up to 50 and no image_w and image_h; save boxes as shares of the picture"),
        ({"boxes": BOXES * 100, "image_w": 50, "image_h": 100},
         r"has 1 of 2 boxes outside the picture, first \(0.5, 0.5, 2, 1\) in shares of it; correct the boxes"),
        ({"boxes": BOXES - 0.5}, r"has 2 of 2 boxes outside the picture, first \(-0.5, -0.5, 0, 0.5\)"),
        ({"boxes": BOXES[:, ::-1]}, "has 2 of 2 boxes whose end is before their start; write boxes as x1, y1, x2, y2"),
    ],
)  # fmt: skip
def test_what_is_no_regions_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CellError, match=f"^the cell: {message}"):
        read_regions({"features": FEATURES, "boxes": BOXES} | changes)


def test_a_file_that_is_gone_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CellError, match=r"gone\.npz: there is no such file"):
        read_regions("gone.npz", tmp_path)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and nothing more")
    with pytest.raises(CellError, match=r"cut\.npz: is no file of NumPy arrays"):
        read_regions("cut.npz", tmp_path)
