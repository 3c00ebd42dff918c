"""What the pages assume the reader has: tables and the files that they name.

`pairs.csv` and `photos/`: real pictures, from the emoji set. `houses.csv` and `houses/`: drawn, with all that a table
of several columns may have, absent cells included.
"""

import csv
import random
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw

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


def make_houses(folder: Path, count: int = 240) -> None:
    """Pictures in `houses/`, and `houses.csv` with image, notes, area, rooms, district, price and defect.

    The price follows area, district and what the notes say; a defect is a crack in the picture, or water in the notes.
    One cell in ten of image, notes and area is empty, and some labels of defect are.
    """
    draw = random.Random(0)
    (folder / "houses").mkdir()
    with (folder / "houses.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "notes", "area", "rooms", "district", "price", "defect"])
        for row in range(count):
            area, district = draw.randint(40, 220), draw.choice(["north", "south", "harbor", "old town"])
            crack, water, garden = draw.random() < 0.3, draw.random() < 0.2, draw.random() < 0.5
            picture = Path("houses") / f"{row:03}.png"
            draw_house(area, crack).save(folder / picture)
            said = [
                draw.choice(["quiet street", "near the station", "安静的街道", "带电梯"]),
                f"built {draw.randint(1900, 2020)}",
            ]
            notes = ", ".join([*said, *["large garden"] * garden, *["water in the cellar"] * water])
            price = 1500 * area + 40_000 * (district == "harbor") + 30_000 * garden - 50_000 * (crack or water)
            defect = "" if draw.random() < 0.05 else "yes" if crack or water else "no"
            cells = ["" if draw.random() < 0.1 else cell for cell in (picture, notes, area)]
            table.writerow(
                [*cells, 1 + area // 30, district, round(price * draw.uniform(0.95, 1.05) / 1000) * 1000, defect]
            )


def draw_house(area: int, crack: bool) -> Image.Image:
    picture = Image.new("RGB", (64, 64), "skyblue")
    pen, half = ImageDraw.Draw(picture), 8 + area // 12
    pen.rectangle((32 - half, 34, 32 + half, 60), "peru")
    pen.polygon([(30 - half, 34), (32, 10), (34 + half, 34)], "firebrick")
    if crack:
        pen.line([(34, 36), (29, 44), (36, 50), (31, 60)], "black", 2)
    return picture


def suffix(picture: bytes) -> str:
    return ".png" if picture.startswith(b"\x89PNG") else ".webp"
