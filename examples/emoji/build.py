"""Build ``emoji.parquet``: one row for each (emoji, drawing style) picture, with English and Chinese names.

Pictures come from four openly licensed sets and names from Unicode CLDR, all taken from npm packages at pinned
versions (see ``LICENSES.md``). Needs npm, and ``pip install pillow pyarrow resvg-py``::

    python build.py downloads/            # writes emoji.parquet beside this file
    python build.py downloads/ --out /some/where/emoji.parquet

The same versions of the packages and libraries give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from PIL import Image

SOURCES = {
    "noto": "emoji-datasource-google@16.0.0",
    "twemoji": "emoji-datasource-twitter@16.0.0",
    "fluent": "@lobehub/fluent-emoji-3d@1.1.0",
    "openmoji": "openmoji@17.0.0",
    "cldr": "cldr-annotations-full@48.2.0",
    "cldr-derived": "cldr-annotations-derived-full@48.2.0",
}
STYLES = ("noto", "fluent", "openmoji", "twemoji")
UNSEEN_STYLE = "twemoji"
SIZE = 64  # pixels, both sides
QUALITY = 94  # of the lossy WebP
SEED = 0
TEST_SHARE = 0.15  # of the concepts, in every category
VAL_SHARE = 0.05

Key = str  # code points in lower-case hex without the variation selector, e.g. "2764-200d-1f525"


@dataclass(frozen=True)
class Concept:
    """One emoji without a skin tone, whatever the style it is drawn in."""

    key: Key
    emoji: str
    name: str
    keywords: list[str]
    name_zh: str
    keywords_zh: list[str]
    category: str
    subcategory: str
    group: str


def key_of(code_points: str) -> Key:
    return "-".join(point for point in code_points.lower().split("-") if point != "fe0f")


# ---------------------------------------------------------------------------------------------------------------------
# Reading the packages


def download(folder: Path, source: str) -> Path:
    """The package's archive in ``folder``; fetched by npm when it is not there yet."""
    name, _, version = SOURCES[source].rpartition("@")
    archive = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", "--silent", SOURCES[source]], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return archive


def members(archive: Path, pattern: str) -> dict[str, bytes]:
    """Files of the archive whose whole path matches, by the pattern's first bracket (or by path)."""
    found: dict[str, bytes] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            match = re.fullmatch(pattern, member.name)
            if match and member.isfile():
                content = tar.extractfile(member)
                assert content is not None  # true of every regular file
                found[match.group(match.lastindex or 0)] = content.read()
    return found


def read_annotations(folder: Path, locale: str) -> dict[str, tuple[str, list[str]]]:
    """Name and keywords of every character, keyed without the variation selector."""
    result: dict[str, tuple[str, list[str]]] = {}
    # The derived file comes first: where both name a character, the main file wins.
    for source, top in (("cldr-derived", "annotationsDerived"), ("cldr", "annotations")):
        [raw] = members(download(folder, source), rf"package/{top}/{locale}/annotations\.json").values()
        for character, entry in json.loads(raw)[top]["annotations"].items():
            if "tts" in entry:
                result[character.replace("\ufe0f", "")] = (entry["tts"][0], entry.get("default", []))
    return result


def read_drawings(folder: Path, style: str) -> dict[Key, bytes]:
    pattern = {
        "noto": r"package/img/google/64/(.*)\.png",
        "twemoji": r"package/img/twitter/64/(.*)\.png",
        "fluent": r"package/assets/(.*)\.webp",
        "openmoji": r"package/color/svg/(.*)\.svg",
    }[style]
    return {key_of(name): content for name, content in members(download(folder, style), pattern).items()}


# ---------------------------------------------------------------------------------------------------------------------
# Groups: emoji that are variants of one another must fall on the same side of a split

COLOURS = "red|orange|yellow|green|light blue|blue|purple|brown|black|white|grey|pink|hollow red"
DIRECTIONS = (
    "leftwards|rightwards|upwards|downwards|left-facing|right-facing|left|right|up-down|up-left|up-right|down-left"
    "|down-right|left-right|up|down|curving|tilted|clockwise|counterclockwise|lowered|raised"
)
SAME_IDEA = (  # matched against the whole English name
    ("clock-face", r".*(o’clock|-thirty)"),
    ("moon", r".*\bmoon( face)?"),
    ("family", r"family.*|kiss(:.*)?|couple with heart.*|.*holding hands"),
    ("heart-colour", rf"({COLOURS}) heart"),
    ("circle-colour", rf"({COLOURS}) circle"),
    ("square-colour", rf"({COLOURS}) (small |medium |medium-small |large )?square"),
    ("diamond-colour", r"(large|small) (orange|blue) diamond"),
    ("book-colour", rf"({COLOURS}) book"),
    ("medal-place", r"\d.. place medal"),
    ("globe", r"globe showing .*"),
    ("speaker-volume", r"(muted speaker|speaker .* volume)"),
    ("mailbox", r"(open|closed) mailbox .*"),
    ("hourglass", r"hourglass .*"),
    ("banknote", r"\w+ banknote"),
    ("keycap", r"keycap: .*"),
    ("old-person", r"(old man|old woman|older person)"),
    ("child", r"(boy|girl|child)"),
    ("royal", r"(prince|princess|person with crown)"),
    ("claus", r"(Santa Claus|Mrs\. Claus|Mx Claus)"),
    ("pregnant", r"pregnant (woman|man|person)"),
    ("dancing", r"(man|woman) dancing"),
    ("feeding-baby", r"breast-feeding"),
    ("mark", r"(red |white |double )?(question|exclamation)( question| exclamation)? mark"),
    ("japanese-charge", r"Japanese “(not )?free of charge” button"),
    ("japanese-vacancy", r"Japanese “(no )?vacancy” button"),
    ("traffic-light", r"(horizontal|vertical) traffic light"),
    ("input-latin", r"input latin .*"),
    ("lock", r"(locked|unlocked)( with .*)?"),
    ("arrow", r"(up|down|left|right)(-\w+)? arrow( curving \w+)?"),
    ("skin-tone", r".* skin tone"),
    ("fast-button", r"(fast .* button|fast-forward button)"),
    ("skip-button", r"(next|last) track button"),
)
PEOPLE = {"1f468", "1f469", "1f9d1"}  # man, woman, person
HAIR = {"1f9b0", "1f9b1", "1f9b2", "1f9b3"}
GENDER = {"2640", "2642"}


def group_of(key: Key, name: str, subcategory: str) -> str:
    """A readable id shared by the variants of one emoji: gender, hair, direction, colour, hour, place, ..."""
    if subcategory != "country-flag":
        for group, pattern in SAME_IDEA:
            if re.fullmatch(pattern, name):
                return group
    points = key.split("-200d-")
    if points[-1] == "27a1":  # "facing right"
        points.pop()
    points = [points[0]] + [point for point in points[1:] if point not in GENDER | HAIR]
    points = ["person" if point in PEOPLE else point for point in points]
    if points[0] == "person" or len(points) < len(key.split("-200d-")):
        return "-".join(points)
    plain = re.sub(rf"\b({DIRECTIONS})\b", "", name)
    plain = re.sub(r"\boncoming\b", "", plain)
    return "-".join(re.findall(r"\w+", plain.lower())) if plain != name and plain.strip() else "-".join(points)


def merge_groups(concepts: dict[Key, str], groups: dict[Key, str]) -> dict[Key, str]:
    """Let 'oncoming bus' (group 'bus') meet 'bus' (group '1f68c'): a group named like an emoji takes that emoji in."""
    by_name = {"-".join(re.findall(r"\w+", name.lower())): groups[key] for key, name in concepts.items()}
    return {key: by_name.get(group, group) for key, group in groups.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Concepts and splits


def read_concepts(folder: Path, drawn: Iterable[set[Key]]) -> list[Concept]:
    """Every emoji without a skin tone that all styles draw and both languages name, in Unicode's order."""
    in_all_styles = set.intersection(*drawn)
    english, chinese = read_annotations(folder, "en"), read_annotations(folder, "zh")
    [raw] = members(download(folder, "noto"), r"package/emoji\.json").values()
    entries = {}
    for entry in sorted(json.loads(raw), key=lambda entry: entry["sort_order"]):
        character = "".join(chr(int(point, 16)) for point in entry["unified"].split("-"))
        key, bare = key_of(entry["unified"]), character.replace("\ufe0f", "")
        if key in in_all_styles and bare in english and bare in chinese:
            entries[key] = (entry, character, bare)
    names = {key: english[bare][0] for key, (_, _, bare) in entries.items()}
    groups = merge_groups(
        names, {key: group_of(key, names[key], entry["subcategory"]) for key, (entry, _, _) in entries.items()}
    )
    return [
        Concept(key, character, *english[bare], *chinese[bare], entry["category"], entry["subcategory"], groups[key])
        for key, (entry, character, bare) in entries.items()
    ]


def shuffled(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{SEED}/{name}".encode()).hexdigest())


def hold_out(concepts: list[Concept]) -> dict[str, str]:
    """group -> 'train', 'val' or 'test', taking whole groups until each category has given its share."""
    side: dict[str, str] = {}
    by_category: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    home: dict[str, str] = {}  # the category of a group is that of its first concept
    for concept in concepts:
        by_category[home.setdefault(concept.group, concept.category)][concept.group] += 1
    for sizes in by_category.values():
        total = sum(sizes.values())
        room = {"test": round(total * TEST_SHARE), "val": round(total * VAL_SHARE)}
        for group in shuffled(sizes):
            side[group] = next((name for name, left in room.items() if sizes[group] <= left), "train")
            if side[group] != "train":
                room[side[group]] -= sizes[group]
    return side


def split_of(side: str, style: str) -> str | None:
    """The split of one picture. A val concept in the unseen style would be neither seen nor untouched: left out."""
    if style == UNSEEN_STYLE:
        return {"train": "test_style", "test": "test_both", "val": None}[side]
    return {"train": "train", "test": "test_concept", "val": "val"}[side]


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def open_bitmap(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGBA")


def open_svg(content: bytes) -> Image.Image:
    svg = content.decode()
    return open_bitmap(
        bytes(resvg_py.svg_to_bytes(svg_string=svg, width=4 * SIZE, height=4 * SIZE, skip_system_fonts=True))
    )


def to_webp(picture: Image.Image) -> bytes:
    """The drawing on white, ``SIZE`` x ``SIZE``, as WebP."""
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture)
    square = canvas.convert("RGB")
    if square.size != (SIZE, SIZE):
        square = square.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    square.save(buffer, "WEBP", quality=QUALITY, method=6, use_sharp_yuv=True)
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------------------------------

SCHEMA = pa.schema(
    [
        ("image", pa.binary()),
        ("style", pa.string()),
        ("emoji", pa.string()),
        ("name", pa.string()),
        ("keywords", pa.list_(pa.string())),
        ("name_zh", pa.string()),
        ("keywords_zh", pa.list_(pa.string())),
        ("category", pa.string()),
        ("subcategory", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
    ]
)


def build(folder: Path) -> pa.Table:
    drawings = {style: read_drawings(folder, style) for style in STYLES}
    concepts = read_concepts(folder, (set(drawn) for drawn in drawings.values()))
    side = hold_out(concepts)
    rows = []
    for concept in concepts:
        for style in STYLES:
            split = split_of(side[concept.group], style)
            if split is None:
                continue
            read: Callable[[bytes], Image.Image] = open_svg if style == "openmoji" else open_bitmap
            row = {field: getattr(concept, field) for field in SCHEMA.names if hasattr(concept, field)}
            rows.append(row | {"image": to_webp(read(drawings[style][concept.key])), "style": style, "split": split})
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("downloads", type=Path, help="folder for the npm archives (162 MB); those in it are used again")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("emoji.parquet"))
    options = parser.parse_args()
    table = build(options.downloads)
    pq.write_table(table, options.out, compression="zstd", compression_level=9, row_group_size=1024)
    counts = table.group_by("split").aggregate([("emoji", "count"), ("emoji", "count_distinct")]).to_pylist()
    for row in sorted(counts, key=lambda row: row["split"]):
        print(f"{row['split']:13}{row['emoji_count']:6} pictures{row['emoji_count_distinct']:6} emoji")
    print(f"{options.out.name}: {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
