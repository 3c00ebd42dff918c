from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from polymodal.data.detect import detect_regions
from polymodal.data.manifest import Manifest
from polymodal.data.regions import read_regions
from polymodal.encoders.regions import Detection
from polymodal.errors import DataError
from tests.data.files import write_text


def dark_spots(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
    """A real, if simple, detector: the box around all dark pixels, with the mean color as its features."""
    found = []
    for pixels in pictures:
        y, x = np.nonzero(pixels.max(2) < 128)
        if len(x) == 0:
            found.append(Detection(np.zeros((0, 4), np.float32), np.zeros((0, 3), np.float32), None))
            continue
        box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32)
        found.append(Detection(box, pixels[y, x].mean(0, keepdims=True).astype(np.float32), None))
    return found


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    for name, box in (("a", (10, 5, 29, 14)), ("b", (0, 0, 3, 3))):
        image = Image.new("RGB", (40, 20), "white")
        ImageDraw.Draw(image).rectangle(box, fill=(100, 0, 0))
        image.save(tmp_path / f"{name}.png")
    Image.new("RGB", (8, 8), "white").save(tmp_path / "empty.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = "".join(f"{name}.png,{name}\n" for name in ("a", "b", "a", "empty", "bad"))
    return Manifest.read(write_text(tmp_path / "table.csv", "image,name\n" + rows))


def test_each_picture_is_looked_at_once_and_its_regions_are_found_again(manifest: Manifest, tmp_path: Path) -> None:
    seen: list[NDArray[np.uint8]] = []

    def counted(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        seen.extend(pictures)
        return dark_spots(pictures)

    out, faults = detect_regions(manifest, counted, tmp_path / "new" / "with.csv")
    assert len(seen) == 3
    assert {fault.row: fault.kind for fault in faults} == {4: "no-regions", 5: "no-regions"}
    assert faults[0].reason == "the detector found nothing in it"
    again = Manifest.read(out)
    assert [column.modality for column in again.columns if column.name == "regions"] == ["regions"]
    cells = again.column("regions").to_pylist()
    assert cells[0] == cells[2]
    assert cells[3] in (None, "")
    found = read_regions(cells[0], again.root)
    np.testing.assert_allclose(found.boxes, [[10 / 40, 5 / 20, 30 / 40, 15 / 20]], atol=1e-6)
    np.testing.assert_allclose(found.features, [[100, 0, 0]])


def test_a_detector_that_breaks_its_promise_is_named(manifest: Manifest, tmp_path: Path) -> None:
    def fewer(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        return dark_spots(pictures)[:1]

    def outside(pictures: Sequence[NDArray[np.uint8]]) -> list[Detection]:
        return [found._replace(boxes=found.boxes + 100) for found in dark_spots(pictures)]

    with pytest.raises(DataError, match="the detector gave 1 answers for 3 pictures, wanted one for each"):
        detect_regions(manifest, fewer, tmp_path / "out.csv")
    with pytest.raises(DataError, match=r"row 1.*the detector gave a box outside the picture of 40 x 20 pixels"):
        detect_regions(manifest, outside, tmp_path / "out.csv")


def test_a_table_that_cannot_take_it_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match='there is a column "name" already'):
        detect_regions(manifest, dark_spots, tmp_path / "out.csv", column="name")
    texts = Manifest.read(write_text(tmp_path / "texts.csv", "caption\na dog\na cat\n"))
    with pytest.raises(DataError, match="no column holds pictures"):
        detect_regions(texts, dark_spots, tmp_path / "out.csv")
