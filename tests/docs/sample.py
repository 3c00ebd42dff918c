"""What the pages assume the reader has: a table `pairs.csv` and a folder of pictures. Real ones, from the emoji set."""

import csv
from pathlib import Path

import pyarrow.parquet as pq

from tests.docs.blocks import ROOT


def make_sample(folder: Path, concepts: int = 40) -> None:
    """Pictures in `photos/`, and `pairs.csv` with image, caption, caption_zh and category.

    Foods and animals of the training split in three drawing styles: enough rows to split, few enough to train fast.
    """
    rows = pq.read_table(ROOT / "examples/emoji/emoji.parquet", filters=[("split", "==", "train")]).to_pylist()
    wanted = [row for row in rows if row["category"] in {"Food & Drink", "Animals & Nature"}]
    names = sorted({row["name"] for row in wanted})[:concepts]
    (folder / "photos").mkdir()
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption", "caption_zh", "category"])
        for index, row in enumerate(row for row in wanted if row["name"] in names):
            picture = Path("photos") / f"{index:04}{suffix(row['image'])}"
            (folder / picture).write_bytes(row["image"])
            table.writerow([picture, row["name"], row["name_zh"], row["category"]])


def suffix(picture: bytes) -> str:
    return ".png" if picture.startswith(b"\x89PNG") else ".webp"
