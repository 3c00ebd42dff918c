"""A detector run over a table's pictures: what it finds goes into files, and the table gets a column of them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from polymodal.data.cache import written_beside
from polymodal.data.decode import flatten, open_image
from polymodal.data.faults import Fault
from polymodal.data.manifest import Manifest
from polymodal.data.progress import with_progress
from polymodal.data.write import resolve_out, write
from polymodal.encoders.regions import Detection, Detector
from polymodal.errors import DataError

BATCH = 8  # pictures that a detector is handed at a time; they may be large
WHITE = (255, 255, 255)


def detect_regions(
    manifest: Manifest, detector: Detector, out: str | Path, *, column: str = "regions", progress: bool = False
) -> tuple[Path, list[Fault]]:
    """Write the table with a column of region files, one for each different picture, in a folder beside it.

    A picture that cannot be read, or in which nothing is found, has an empty cell: a model treats the input as absent.

    Args:
        detector: any function that keeps to `encoders.regions.Detector`.
        out: the new table; its ending says the format.
        column: name of the new column.
        progress: show a bar on stderr if that is a terminal.

    Returns:
        The table that was written, and the pictures that have no regions.

    Raises:
        DataError: the table has no pictures or such a column already, or the detector breaks its promise.
    """
    if manifest.image is None:
        raise DataError(f"{manifest.source}: no column holds pictures, so there is nothing to detect in")
    if column in manifest.kinds():
        raise DataError(f'{manifest.source}: there is a column "{column}" already; choose another name')
    table = resolve_out(manifest, Path(out))
    folder = table.with_name(f"{table.stem}-{column}")
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str | None] = {}  # by picture
    keys: list[str | None] = []
    faults: list[Fault] = []
    places: dict[str, int] = {}
    for place in range(len(manifest)):
        try:
            keys.append(manifest.image_key(place))
            places.setdefault(manifest.image_key(place), place)
        except DataError as error:
            keys.append(None)
            faults.append(_fault(manifest, place, str(error)))
    for key, place, found in with_progress(
        _found(manifest, detector, places, faults), f"detecting {column}", len(places), progress
    ):
        files[key] = None
        if len(found.boxes) == 0:
            faults.append(_fault(manifest, place, "the detector found nothing in it"))
            continue
        file = folder / f"{manifest.row_number(place)}.npz"
        with written_beside(file) as fresh, fresh.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **_arrays(found))
        files[key] = f"{folder.name}/{file.name}"
    cells = pa.array([None if key is None else files.get(key) for key in keys], pa.string())
    return write(manifest, table, {column: cells}), sorted(faults)


def _found(
    manifest: Manifest, detector: Detector, places: dict[str, int], faults: list[Fault]
) -> Iterator[tuple[str, int, Detection]]:
    opened = _opened(manifest, places, faults)
    while batch := list(islice(opened, BATCH)):
        detections = detector([pixels for _, _, pixels in batch])
        if len(detections) != len(batch):
            raise DataError(
                f"the detector gave {len(detections)} answers for {len(batch)} pictures, wanted one for each"
            )
        for (key, place, pixels), detection in zip(batch, detections, strict=True):
            yield key, place, _as_shares(detection, pixels, manifest.where(place, manifest.image or ""))


def _opened(
    manifest: Manifest, places: dict[str, int], faults: list[Fault]
) -> Iterator[tuple[str, int, NDArray[np.uint8]]]:
    for key, place in places.items():
        try:
            image = flatten(open_image(manifest.image_reference(place), manifest.root), WHITE)
        except DataError as error:
            faults.append(_fault(manifest, place, str(error)))
        else:
            yield key, place, np.asarray(image.convert("RGB"))


def _as_shares(found: Detection, pixels: NDArray[np.uint8], where: str) -> Detection:
    """Boxes as shares of the picture.

    Raises:
        DataError: the detector's answer is not what `Detector` promises.
    """
    boxes = np.asarray(found.boxes, np.float32).reshape(-1, 4)
    height, width = pixels.shape[:2]
    sides = np.array([width, height, width, height], np.float32)
    counts = {len(boxes), len(found.features), *(() if found.classes is None else (len(found.classes),))}
    if len(counts) > 1:
        raise DataError(
            f"{where}: the detector gave boxes, features and classes of different numbers: {sorted(counts)}"
        )
    if len(boxes) and ((boxes < -0.01 * sides) | (boxes > 1.01 * sides)).any():
        raise DataError(f"{where}: the detector gave a box outside the picture of {width} x {height} pixels")
    return found._replace(boxes=(boxes / sides).clip(0, 1))


def _arrays(found: Detection) -> dict[str, NDArray[np.float32]]:
    arrays = {"features": np.asarray(found.features, np.float32), "boxes": found.boxes}
    return arrays if found.classes is None else arrays | {"cls_prob": np.asarray(found.classes, np.float32)}


def _fault(manifest: Manifest, place: int, reason: str) -> Fault:
    remedy = "the model treats its regions as absent"
    return Fault(manifest.row_number(place), manifest.image or "", "no-regions", reason, remedy, "warning")
