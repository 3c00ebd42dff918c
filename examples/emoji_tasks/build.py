"""Build ``emoji-tasks.parquet`` from ``examples/emoji/emoji.parquet``: a picture, texts and a record, and two targets.

    python examples/emoji_tasks/build.py emoji-tasks.parquet

Of the training emoji 15 % lose their category and, independently, 30 % their subcategory, in all drawings at once: a
table as people have it. Labels of the other splits are whole, and `category_whole` and `subcategory_whole` lack none.
The same input gives the same bytes.
"""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

EMOJI = Path(__file__).parents[1] / "emoji" / "emoji.parquet"
BLANK = {"category": 0.15, "subcategory": 0.3}  # shares of the training emoji
SPLITS = {"train": "train", "val": "val", "test_concept": "test"}  # the test is of emoji that were never seen
SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("emoji", pa.string()),
        ("name", pa.string()),
        ("name_zh", pa.string()),
        ("keywords_zh", pa.string()),
        ("style", pa.string()),
        ("page", pa.string()),
        ("points", pa.int64()),
        ("words", pa.int64()),
        ("keywords", pa.int64()),
        ("category", pa.string()),
        ("subcategory", pa.string()),
        ("category_whole", pa.string()),
        ("subcategory_whole", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
    ]
)


def row_of(given: dict[str, Any], blank: dict[str, float]) -> dict[str, Any]:
    """One row of emoji.parquet as one of the tasks' table."""
    split, emoji = SPLITS[given["split"]], given["emoji"]
    whole = {f"{name}_whole": given[name] for name in ("category", "subcategory")}
    labels = {name: given[name] for name in ("category", "subcategory")}
    if split == "train":
        labels |= {name: None for name, share in blank.items() if is_blank(name, emoji, share)}
    kept = {name: given[name] for name in ("image", "emoji", "name", "name_zh", "style", "group")}
    record = {
        "page": f"U+{ord(emoji[0]) >> 8:X}xx",  # where the first character stands in Unicode
        "points": len(emoji),
        "words": len(given["name"].split()),
        "keywords": len(given["keywords"]),
    }
    return kept | record | labels | whole | {"keywords_zh": " ".join(given["keywords_zh"]), "split": split}


def is_blank(name: str, emoji: str, share: float) -> bool:
    """Whether an emoji loses this label: the same answer at any time, in all of its drawings."""
    drawn = int.from_bytes(hashlib.sha256(f"{name}/{emoji}".encode()).digest()[:8], "big")
    return drawn < share * 2**64


def build(emoji: pa.Table, blank: dict[str, float] | None = None) -> pa.Table:
    """
    Args:
        emoji: as in emoji.parquet.
        blank: share of the training emoji that lose each label; None: `BLANK`.
    """
    shares = BLANK if blank is None else blank
    rows = [row_of(row, shares) for row in emoji.to_pylist() if row["split"] in SPLITS]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the Parquet file to write")
    parser.add_argument("--emoji", type=Path, default=EMOJI, help="emoji.parquet")
    options = parser.parse_args()
    table = build(pq.read_table(options.emoji))
    pq.write_table(table, options.out, compression="zstd")
    train = table.filter(pc.equal(table["split"], "train"))
    lacking = ", ".join(f"{train[name].null_count:,} lack {name}" for name in BLANK)
    print(f"{options.out}: {table.num_rows:,} rows, {train.num_rows:,} to train ({lacking})")


if __name__ == "__main__":
    main()
