"""The answers to a question as one picture: rank, score, picture and text of each."""

from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from polymodal.data.cache import written_beside
from polymodal.data.decode import flatten, open_image
from polymodal.data.manifest import Manifest
from polymodal.engine.search import Answers
from polymodal.errors import ConfigError, DataError

COLUMNS = 5
TILE = 180  # pixels of a picture's side
TEXT = 16  # pixels, height of a line
LINES = 3  # under each picture: rank and score, and two of its text
MARGIN = 12
WHITE, BLACK, GREY = (255, 255, 255), (20, 20, 20), (225, 225, 225)
# Looked for in this order; the last one comes with matplotlib and has no Chinese letters.
FONTS = [
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "DejaVu Sans",
]


def draw_answers(manifest: Manifest, answers: Answers, title: str, out: Path) -> None:
    """Write the contact sheet of the answers, a PNG.

    Letters that no font of this system has come out as boxes; Chinese needs one of `FONTS`, such as fonts-noto-cjk.

    Raises:
        ConfigError: the name does not end in .png.
        DataError: the file cannot be written.
    """
    check_name(out)
    rows = -(-len(answers.hits) // COLUMNS)
    step, height = TILE + MARGIN, TILE + LINES * TEXT + MARGIN
    top = 2 * MARGIN + TEXT
    sheet = Image.new("RGB", (COLUMNS * step + MARGIN, top + rows * height), WHITE)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), _cut(title, sheet.width - 2 * MARGIN), BLACK, font())
    for place, hit in enumerate(answers.hits):
        x, y = MARGIN + place % COLUMNS * step, top + place // COLUMNS * height
        sheet.paste(_tile(manifest, hit.place, hit.image is not None), (x, y))
        lines = [f"{place + 1}.  {hit.score:.3f}", *_wrapped(" | ".join(hit.texts), TILE, LINES - 1)]
        for number, line in enumerate(lines):
            draw.text((x, y + TILE + number * TEXT), line, BLACK, font())
    with written_beside(out) as fresh:
        sheet.save(fresh, "PNG")


def check_name(out: Path) -> None:
    """
    Raises:
        ConfigError: the name does not end in .png.
    """
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--sheet {out}: wanted a name that ends in .png")


@cache
def font() -> ImageFont.FreeTypeFont:
    from matplotlib.font_manager import FontProperties, fontManager  # slow to import

    there = {found.name for found in fontManager.ttflist}
    name = next(name for name in FONTS if name in there)
    return ImageFont.truetype(fontManager.findfont(FontProperties(family=name)), TEXT - 3)


def _tile(manifest: Manifest, place: int, has_picture: bool) -> Image.Image:
    blank = Image.new("RGB", (TILE, TILE), GREY)
    if not has_picture:
        return blank
    try:
        picture = flatten(open_image(manifest.image_reference(place), manifest.root), WHITE)
    except DataError:  # of a text that was found; the picture was not asked for
        return blank
    return ImageOps.pad(picture, (TILE, TILE), color=GREY)


def _wrapped(text: str, width: int, lines: int) -> list[str]:
    """At most `lines` lines of at most `width` pixels; Chinese breaks anywhere, and a word too long does too."""
    found: list[str] = []
    rest = " ".join(text.split())
    while rest and len(found) < lines - 1:
        line = _fitting(rest, width)
        if len(line) < len(rest) and rest[len(line)] != " " and " " in line and line.isascii():
            line = line.rpartition(" ")[0]
        found.append(line)
        rest = rest[len(line) :].lstrip()
    return [*found, _cut(rest, width)] if rest else found


def _fitting(text: str, width: int) -> str:
    count = next((count for count in range(1, len(text) + 1) if font().getlength(text[:count]) > width), len(text) + 1)
    return text[: max(1, count - 1)]


def _cut(text: str, width: int) -> str:
    return text if font().getlength(text) <= width else _fitting(text, width - TEXT) + "…"
