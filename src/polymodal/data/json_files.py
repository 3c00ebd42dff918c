"""Readers of captions in one JSON file: COCO, Karpathy's `dataset_coco.json`, and a list of objects (LAVIS)."""

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from polymodal.data.reading import Reading, Row, batches_of_rows
from polymodal.errors import DataError


def read_json(path: Path, images: Path | None, reading: Reading) -> Iterator[pa.RecordBatch]:
    """Batches of one row an image, or one row an object if the file is a list.

    Args:
        images: folder of the pictures; looked for near the file when it is not given.

    Raises:
        DataError: the file is not JSON, or has none of the three forms.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON ({error}); JSON Lines need the ending .jsonl") from None
    match data:
        case list():
            rows = _objects(data, reading)
        case {"images": list(), "annotations": list()}:
            rows = _coco(data, reading)
        case {"images": list()}:
            rows = _karpathy(data["images"], reading)
        case _:
            raise DataError(
                f'{path}: wanted COCO captions ("images" and "annotations"), a Karpathy split ("images" with '
                f'"sentences") or a list of objects, got {_outline(data)}'
            )
    yield from batches_of_rows(_with_paths(rows, path.parent, images, reading), reading)


def _outline(data: Any) -> str:
    return f"the keys {', '.join(map(repr, list(data)[:6]))}" if isinstance(data, dict) else f"a {type(data).__name__}"


def _objects(data: list[Any], reading: Reading) -> Iterator[Row]:
    for number, entry in enumerate(data, 1):
        if isinstance(entry, dict):
            yield number, entry
        else:
            reading.fault(number, "", "json", f"it is a {type(entry).__name__}", "write an object {...}")


def _coco(data: dict[str, Any], reading: Reading) -> Iterator[Row]:
    captions = defaultdict(list)
    for place, annotation in enumerate(data["annotations"], 1):
        if not (isinstance(annotation, dict) and {"image_id", "caption"} <= annotation.keys()):
            raise DataError(f'annotation {place} has no "image_id" or no "caption": wanted COCO captions')
        captions[annotation["image_id"]].append(annotation["caption"])
    for number, image in enumerate(data["images"], 1):
        if not (isinstance(image, dict) and {"id", "file_name"} <= image.keys()):
            reading.fault(number, "image", "json", 'the image has no "id" or no "file_name"', "add it")
            continue
        yield number, {"image": image["file_name"], "captions": captions.pop(image["id"], []), "image_id": image["id"]}
    if captions:
        some = ", ".join(map(str, list(captions)[:3]))
        reading.note(f"{len(captions)} image_ids have captions but no entry in images, first: {some}; left out")


def _karpathy(images: list[Any], reading: Reading) -> Iterator[Row]:
    for number, image in enumerate(images, 1):
        if not (isinstance(image, dict) and isinstance(image.get("sentences"), list) and "filename" in image):
            reading.fault(number, "image", "json", 'the image has no "filename" or no "sentences"', "add it")
            continue
        split = image.get("split")
        if split == "restval":
            reading.note('split "restval" counts as "train", as is usual with this file')
            split = "train"
        yield (
            number,
            {
                "image": "/".join(filter(None, (image.get("filepath"), image["filename"]))),
                "captions": [sentence.get("raw") for sentence in image["sentences"]],
                "split": split,
                "image_id": image.get("cocoid", image.get("imgid")),
            },
        )


def _with_paths(rows: Iterator[Row], root: Path, images: Path | None, reading: Reading) -> Iterator[Row]:
    """The rows, with the folder of the pictures put before the paths in `image`."""
    prefix = None
    for number, values in rows:
        if "image" in values and isinstance(values["image"], str):
            if prefix is None:
                prefix = find_prefix(values["image"], root, images)
                if prefix:
                    reading.note(f'pictures are in "{prefix}"')
            if prefix:
                values = values | {"image": f"{prefix}/{values['image']}"}
        yield number, values


def find_prefix(name: str, root: Path, images: Path | None) -> str:
    """The folder, relative to `root` where that is possible, in which a picture of this name lies; "" if none does."""
    if images is not None:
        return str(images.absolute())
    if (root / name).exists():
        return ""
    near = [folder for base in (root, root.parent) for folder in sorted(base.iterdir()) if folder.is_dir()][:1000]
    for folder in (*near, *(inner for base in near if base.name == "images" for inner in base.iterdir())):
        if (folder / name).exists():
            return Path(os.path.relpath(folder, root)).as_posix()
    return ""
