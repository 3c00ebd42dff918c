"""The captions of a manifest: empty ones, names of files, and how long they are."""

import hashlib
import os
import re
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.data.faults import FaultList
from polymodal.data.manifest import Manifest
from polymodal.data.progress import with_progress
from polymodal.errors import DataError

WORDS = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+")  # a Chinese character is a word here
CHINESE = re.compile(r"[\u3400-\u9fff]")


class Captions:
    """Reads all captions, reports the faulty ones, and keeps a few numbers of each.

    Attributes:
        hashes: (rows,), equal for rows with the same captions in any order.
    """

    def __init__(self, manifest: Manifest, faults: FaultList, progress: bool) -> None:
        self.hashes = np.zeros(len(manifest), np.uint64)
        self._each = array("Q")  # a hash of every caption
        self._characters, self._words = array("L"), array("L")
        self._chinese = self._rows = 0
        if not manifest.text:
            return
        for row in with_progress(range(len(manifest)), "reading captions", len(manifest), progress):
            self._read(manifest, row, faults)

    def _read(self, manifest: Manifest, row: int, faults: FaultList) -> None:
        number, where = manifest.row_number(row), " + ".join(manifest.text)
        every = manifest.all_captions(row)
        captions = manifest.captions(row)
        if not captions:
            faults.add(number, where, "empty-caption", "it has no caption", "write one, or leave the row out")
        elif len(captions) < len(every):
            reason = f"{len(every) - len(captions)} of its {len(every)} captions are empty"
            faults.add(number, where, "empty-caption", reason, "the others are used", "warning")
        if name := _file_name(manifest, row):
            for caption in captions:
                if caption.casefold() in (name.casefold(), os.path.splitext(name)[0].casefold()):
                    reason = f'the caption "{caption}" is the name of its file'
                    faults.add(number, where, "caption-is-file-name", reason, "write a caption", "warning")
        self._rows += bool(captions)
        hashes = [_hash(caption) for caption in captions]
        self._each.extend(hashes)
        self._characters.extend(map(len, captions))
        self._words.extend(len(WORDS.findall(caption)) for caption in captions)
        self._chinese += sum(CHINESE.search(caption) is not None for caption in captions)
        self.hashes[row] = _hash(repr(sorted(hashes)))

    def statistics(self) -> dict[str, Any]:
        count = len(self._each)
        return {
            "captions": count,
            "distinct": len(np.unique(np.asarray(self._each))),
            "rows_with_captions": self._rows,
            "share_with_chinese": round(self._chinese / count, 4) if count else 0.0,
            "characters": spread(np.asarray(self._characters)),
            "words": spread(np.asarray(self._words)),
        }


def spread(values: NDArray[Any]) -> dict[str, float]:
    """Smallest, median, 95th percentile, largest and mean; nothing of nothing."""
    if len(values) == 0:
        return {}
    low, middle, high, top = np.percentile(values, (0, 50, 95, 100)).tolist()
    return {"min": low, "median": middle, "p95": high, "max": top, "mean": round(float(values.mean()), 2)}


def _file_name(manifest: Manifest, row: int) -> str | None:
    if manifest.image is None:
        return None
    try:
        reference = manifest.image_reference(row)
    except DataError:
        return None  # reported with the pictures
    if isinstance(reference, bytes) or len(reference) > 1000:
        return None
    return os.path.basename(reference.partition("#")[2].rpartition("@")[0] or reference)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
