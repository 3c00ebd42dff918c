"""What each column holds, by looking at a sample of it and at its name."""

import datetime
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from polymodal.data.decode import EXTENSIONS, is_base64, is_picture
from polymodal.data.reading import ROW
from polymodal.data.values import DATE, NO_NUMBER, NUMBER, SEPARATORS, parsed_json
from polymodal.errors import DataError, did_you_mean

Modality = Literal[
    "image", "text", "audio", "series", "regions", "category", "labels", "number", "date", "id", "split", "url",
    "empty", "other",
]  # fmt: skip

# Rows looked at: blocks spread evenly over the table. Single rows would bring nearly all of a mapped file into memory,
# because the system reads ahead around each.
BLOCKS, BLOCK = 20, 50


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Lower-case, without spaces, _ and -.
IMAGE_NAMES = _words(
    "image images imagepath imagefile img imgpath imagename file filepath filename path picture photo jpg png "
    "图片 图像 图片路径 照片"
)
TEXT_NAMES = _words(
    "caption captions text texts title sentence sentences description descriptions alt alttext raw txt prompt "
    "name question questions query comment comments review reviews report reports findings impression abstract "
    "标题 描述 文本 说明 文字 名称 问题 评论 报告"
)
SPLIT_NAMES = _words("split splits subset partition fold dataset 划分 数据集")
ID_NAMES = _words("id uid uuid key imageid index")
CATEGORY_NAMES = _words("label labels class category classname target cls 类别 标签 分类")
REGION_NAMES = _words("region regions regionfeatures box boxes bbox bboxes detection detections roi rois 区域 检测")
SPLIT_VALUES = frozenset(_words("train training val valid validation dev test testing testdev restval holdout"))


SOUNDS = frozenset(_words(".wav .flac .ogg .oga .opus .mp3 .m4a .aac .aif .aiff .au .wma .amr"))
ARRAYS = frozenset(_words(".npy .npz"))
_SOUND_STARTS = (b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"FORM", b".snd")
REGION_KEYS = frozenset(_words("features boxes"))

_ID_ENDING = re.compile(r"[\s_\-](id|ID|Id|key)$|[a-z](ID|Id)$|编号$")
_PATHS = "paths of pictures"
# Captions that are names of files are bad captions, which `check` says, and not the column of pictures.
_CAPTION_NAMES = frozenset(TEXT_NAMES) - {"name", "raw", "alt", "名称", "文字"}


class Column(NamedTuple):
    name: str
    modality: Modality
    reason: str  # why it was typed so


def inspect(table: pa.Table, root: Path | None = None) -> tuple[Column, ...]:
    """Modality of every column, with the reason; one .npz file below `root` is looked into."""
    starts = np.linspace(0, max(table.num_rows - BLOCK, 0), BLOCKS).astype(int)
    rows = np.unique(starts[:, None] + np.arange(BLOCK))
    rows = rows[rows < table.num_rows].tolist()
    return tuple(
        Column(name, *_modality(name, [table.column(name)[row].as_py() for row in rows], table.num_rows, root))
        for name in table.column_names
        if name != ROW
    )


def _modality(name: str, sample: list[Any], count: int, root: Path | None) -> tuple[Modality, str]:
    values = [value for value in sample if value is not None and value != "" and value != []]
    if not values:
        return "empty", "no row that was looked at has a value"
    by_type = _by_type(name, values)
    if by_type is not None:
        return by_type
    if all(isinstance(value, bool) for value in values):
        return "category", "values are true and false"
    if all(isinstance(value, int | float) for value in values):
        return _number(name, values)
    return _string(name, [str(value) for value in values], count, root)


def _by_type(name: str, values: list[Any]) -> tuple[Modality, str] | None:
    """Of values that are no plain numbers and strings."""
    match values[0]:
        case bytes():
            return _of_bytes(values)
        case datetime.date():
            return "date", "values are dates"
        case dict() as first if first.keys() >= {"bytes", "path"}:
            if (_is_sound(str(first["path"] or "")) or is_sound(first["bytes"] or b"")) and not _is_path(
                str(first["path"])
            ):
                return "audio", "a struct of bytes and path of a sound, as Hugging Face datasets write sounds"
            return "image", "a struct of bytes and path, as Hugging Face datasets write pictures"
        case dict() as first if first.keys() >= REGION_KEYS:
            return "regions", "a struct of features and boxes"
        case dict() as first:
            return "other", f"a struct of {', '.join(first)}"
        case list():
            return _of_lists(name, values)
    return None


def _of_bytes(values: list[bytes]) -> tuple[Modality, str]:
    if (share := _share(is_picture(value[:16]) for value in values)) >= 0.5:
        return "image", f"{share:.0%} are bytes of pictures"
    if (share := _share(is_sound(value[:16]) for value in values)) >= 0.5:
        return "audio", f"{share:.0%} are bytes of sounds"
    return "other", "bytes of no picture or sound format"


def _of_lists(name: str, values: list[Any]) -> tuple[Modality, str]:
    items = [item for value in values for item in value if item is not None]
    if not items or not isinstance(items[0], str):
        return _series(values) or ("other", "lists of something else than text or numbers")
    if _share(map(_is_path, items)) >= 0.5:
        return "image", "lists of paths of pictures"
    if _plain(name) not in TEXT_NAMES and (few := _few_labels(values)):
        return few
    return "text", "lists of texts"


def _few_labels(values: list[list[str]]) -> tuple[Modality, str] | None:
    """Few different short items, none twice in a row of the table (words of a sentence and answers are)."""
    items = [item for value in values for item in value if item is not None]
    distinct = set(items)
    if len(distinct) > max(2, len(items) // 4) or max(map(len, distinct), default=99) > 60:
        return None
    if any(len(set(value)) < len(value) for value in values):
        return None
    return "labels", f"lists of {len(distinct)} labels in {len(values)} rows"


def _series(values: list[Any]) -> tuple[Modality, str] | None:
    for value in values:
        steps = value if value and isinstance(value[0], list) else [value]
        if not all(isinstance(step, list) and all(map(_is_plain_number, step)) for step in steps):
            return None
    channels = f" of {len(values[0][0])} channels" if isinstance(values[0][0], list) else ""
    return "series", f"lists of numbers{channels}"


def _is_plain_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _number(name: str, values: list[Any]) -> tuple[Modality, str]:
    distinct = len(set(values))
    if _plain(name) in CATEGORY_NAMES and all(float(value).is_integer() for value in values):
        return "category", f'whole numbers, and the name "{name}" means a category'
    if _plain(name) in ID_NAMES and distinct == len(values):
        return "id", f'numbers that do not repeat, and the name "{name}" means an id'
    if _ID_ENDING.search(name) and all(float(value).is_integer() for value in values):
        if distinct > len(values) / 2:
            return "id", f'whole numbers that hardly repeat, and the name "{name}" means an id'
        return "category", f'whole numbers that repeat, and the name "{name}" means a code'
    return "number", "values are numbers"


def _string(name: str, values: list[str], count: int, root: Path | None) -> tuple[Modality, str]:
    plain, distinct = _plain(name), len(set(values))
    for modality, what, test in (
        ("url", "addresses (http)", _is_url),
        ("image", _PATHS, _is_path),
        ("image", "pictures in base64", _is_encoded),
        ("audio", "paths of sounds", _is_sound),
    ):
        if (share := _share(map(test, values))) >= 0.5 and not (what == _PATHS and plain in _CAPTION_NAMES):
            return modality, f"{share:.0%} are {what}"  # type: ignore[return-value]
    if (structured := _arrays(plain, values, root) or _json_values(values)) is not None:
        return structured
    if plain in SPLIT_NAMES and distinct <= 20:
        return "split", f'few values, and the name "{name}" means a split'
    if {value.strip().lower() for value in values} <= SPLIT_VALUES:
        return "split", f"values are names of splits: {', '.join(sorted(set(values)))}"
    filled = [value.strip() for value in values if value.strip().lower() not in (*NO_NUMBER, "inf", "-inf")]
    if filled and all(re.match(NUMBER, value) for value in filled):
        return _number(name, [float(value) for value in filled])
    if filled and all(re.match(DATE, value) for value in filled):
        return "date", "values are dates"
    if plain in TEXT_NAMES:
        return "text", f'the name "{name}" means a text'
    if plain in CATEGORY_NAMES:
        return "category", f'the name "{name}" means a category'
    spaced = _share(" " in value.strip() for value in values)
    if (plain in ID_NAMES or _ID_ENDING.search(name)) and distinct == len(values) and spaced < 0.1:
        return "id", f'values do not repeat, and the name "{name}" means an id'
    several = _share(SEPARATORS.search(value) is not None for value in values) >= 0.1
    if several and (few := _few_labels([_parts(value) for value in values])):
        return few
    if distinct <= max(2, len(values) // 5) and max(map(len, values)) <= 60 and count > 2:
        return "category", f"{distinct} values in {len(values)} rows"
    return "text", f"{distinct} values in {len(values)} rows"


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name).lower()


def _share(tests: Iterable[bool]) -> float:
    results = list(tests)
    return sum(results) / len(results)


def _is_url(value: str) -> bool:
    return value.startswith(("http://", "https://"))


def _is_path(value: str) -> bool:
    if len(value) > 1000 or _is_url(value):
        return False
    path = re.sub(r"@\d+\+\d+$", "", value) if ".tar#" in value else value
    return Path(path.strip()).suffix.lower() in EXTENSIONS


def _is_encoded(value: str) -> bool:
    return value.startswith("data:image/") or is_base64(value)


def _is_sound(value: str) -> bool:
    return len(value) <= 1000 and Path(value.strip()).suffix.lower() in SOUNDS


def is_sound(start: bytes) -> bool:
    """Whether a file that begins so is a sound."""
    return start.startswith(_SOUND_STARTS) or (start[:4] == b"RIFF" and start[8:12] == b"WAVE") or start[4:8] == b"ftyp"


def _arrays(plain: str, values: list[str], root: Path | None) -> tuple[Modality, str] | None:
    """Of paths of NumPy's files: regions by the column's name or by what is in the first file that is there."""
    share = _share(len(value) <= 1000 and Path(value.strip()).suffix.lower() in ARRAYS for value in values)
    if share < 0.5:
        return None
    if plain in REGION_NAMES:
        return "regions", f"{share:.0%} are paths of arrays, and the name means regions"
    for value in values[:5]:
        try:
            with zipfile.ZipFile((root or Path()) / value.strip()) as file:
                if {Path(member).stem for member in file.namelist()} >= REGION_KEYS:
                    return "regions", "files of features and boxes"
        except (OSError, ValueError, zipfile.BadZipFile):
            continue  # a .npy, or a file that is not there, which reading it will say
    return "series", f"{share:.0%} are paths of arrays"


def _json_values(values: list[str]) -> tuple[Modality, str] | None:
    """Of lists and objects that a JSON Lines file had, or that stand in a CSV's cells."""
    if not all(value.lstrip().startswith(("[", "{")) for value in values):
        return None
    parsed = [parsed_json(value) for value in values]
    if all(isinstance(value, dict) and value.keys() >= REGION_KEYS for value in parsed):
        return "regions", "objects of features and boxes"
    return _series(parsed) if all(isinstance(value, list) and value for value in parsed) else None


def _parts(value: str) -> list[str]:
    return [part for part in SEPARATORS.split(value.strip()) if part]


# ---------------------------------------------------------------------------------------------------------------------
# The columns that are used


def url_column(columns: Sequence[Column]) -> str | None:
    """The first column of URLs of a table that has no column of pictures."""
    if any(column.modality == "image" for column in columns):
        return None
    return next((column.name for column in columns if column.modality == "url"), None)


def choose_image(columns: Sequence[Column], asked: str | None) -> tuple[str | None, tuple[Column, ...]]:
    """The image column, as asked or the best by its name; and the columns with that said in them.

    Raises:
        DataError: there is no such column.
    """
    if asked is not None:
        return asked, _say(columns, asked, "image", "asked for")
    found = [column for column in columns if column.modality == "image"]
    if not found:
        return None, tuple(columns)
    return _best(found, IMAGE_NAMES).name, tuple(columns)


def choose_text(columns: Sequence[Column], asked: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[Column, ...]]:
    """The text columns, as asked or the one best by its name.

    Raises:
        DataError: there is no such column.
    """
    if asked is not None:
        for name in asked:
            columns = _say(columns, name, "text", "asked for")
        return tuple(asked), tuple(columns)
    found = [column for column in columns if column.modality == "text"]
    return ((_best(found, TEXT_NAMES).name,) if found else ()), tuple(columns)


def choose_split(columns: Sequence[Column], asked: str | None) -> tuple[str | None, tuple[Column, ...]]:
    """The split column, as asked or the best by its name.

    Raises:
        DataError: there is no such column.
    """
    if asked is not None:
        return asked, _say(columns, asked, "split", "asked for")
    found = [column for column in columns if column.modality == "split"]
    return (_best(found, SPLIT_NAMES).name if found else None), tuple(columns)


def _best(found: Sequence[Column], names: Sequence[str]) -> Column:
    return min(
        found, key=lambda column: names.index(_plain(column.name)) if _plain(column.name) in names else len(names)
    )


def _say(columns: Sequence[Column], name: str, modality: Modality, reason: str) -> tuple[Column, ...]:
    known = [column.name for column in columns]
    if name not in known:
        raise DataError(f'no column is named "{name}"{did_you_mean(name, known)}; there are: {", ".join(known)}')
    return tuple(Column(name, modality, reason) if column.name == name else column for column in columns)
