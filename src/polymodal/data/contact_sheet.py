"""Pictures with captions drawn side by side, as one picture."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager, get_data_path
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

TILE = 192  # pixels of a picture's side on the sheet
GAP = 14
TEXT_SIZE = 13
LINE = TEXT_SIZE + 6
LINES = 3  # of a caption
PAPER, INK, PALE, RED = (250, 250, 248), (30, 30, 30), (130, 130, 130), (180, 30, 30)
WHITE = (255, 255, 255)

# Families that have Chinese, in the order of preference; any other font is tried after them.
CHINESE_FONTS = (
    "notosanscjk", "notosanssc", "sourcehansans", "pingfang", "msyh", "hiragino", "stheiti", "wqy", "simhei",
)  # fmt: skip


@dataclass(frozen=True)
class Sheet:
    image: Image.Image
    notes: tuple[str, ...]  # what could not be drawn


@dataclass(frozen=True)
class Tile:
    picture: Image.Image | None
    head: str
    caption: str
    fault: str = ""  # why there is no picture


def draw_tiles(tiles: Sequence[Tile], columns: int, title: str = "") -> Sheet:
    """Pictures in lines of `columns`, each with its head and up to `LINES` lines of its caption."""
    fonts = Fonts(title + "".join(tile.caption + tile.head for tile in tiles))
    notes = fonts.notes()
    captions = [fonts.wrap(tile.caption, TILE, LINES) for tile in tiles]
    lines = [range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)]
    heights = [TILE + (1 + max(len(captions[place]) for place in line)) * LINE + GAP for line in lines]
    width = GAP + columns * (TILE + GAP)
    above = LINE + GAP if title else 0
    size = (width, GAP + above + sum(heights) + len(notes) * LINE)
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    top = GAP + above
    if title:
        fonts.draw(draw, (GAP, GAP), fonts.wrap(title, width - 2 * GAP, 1)[0])
    for line, height in zip(lines, heights, strict=True):
        for column, place in enumerate(line):
            _draw_tile(image, draw, tiles[place], captions[place], GAP + column * (TILE + GAP), top, fonts)
        top += height
    for note in notes:
        draw.text((GAP, size[1] - LINE - 2), note, RED, fonts.plain)
    return Sheet(image, notes)


def _draw_tile(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    tile: Tile,
    caption: Sequence[str],
    left: int,
    top: int,
    fonts: "Fonts",
) -> None:
    if tile.picture is not None:
        picture = _thumbnail(tile.picture)
        corner = (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2)
        image.paste(picture, corner, picture if picture.mode == "RGBA" else None)
    elif tile.fault:
        draw.rectangle((left, top, left + TILE, top + TILE), outline=RED)
        draw.multiline_text((left + 6, top + 6), "\n".join(textwrap.wrap(tile.fault, 22)[:9]), RED, fonts.plain)
    draw.text((left, top + TILE + 3), tile.head, PALE, fonts.plain)
    for line, text in enumerate(caption, 1):
        fonts.draw(draw, (left, top + TILE + 3 + line * LINE), text)


def _thumbnail(image: Image.Image) -> Image.Image:
    """Scaled to the tile; small ones by whole numbers and unsmoothed, so that one sees the pixels there are."""
    factor = TILE / max(image.size)
    if factor >= 2:
        return image.resize((image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST)
    wanted = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(wanted, Image.Resampling.LANCZOS)


class Fonts:
    """Fonts that together have a text's characters: DejaVu Sans, which matplotlib brings, and one of the system."""

    def __init__(self, text: str) -> None:
        plain = Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf")
        wanted = {ord(character) for character in text if not character.isspace()}
        self.plain = ImageFont.truetype(plain, TEXT_SIZE)
        self._plain_has = _characters(plain)
        missing = wanted - self._plain_has
        found = find_font(frozenset(missing)) if missing else None
        self._other = ImageFont.truetype(found, TEXT_SIZE) if found else None
        self._other_has = _characters(found) if found else frozenset[int]()
        self.missing = missing - self._other_has

    def notes(self) -> tuple[str, ...]:
        if not self.missing:
            return ()
        some = ", ".join(f"U+{code:04X}" for code in sorted(self.missing)[:3])
        return (
            f"{len(self.missing)} characters are in no font here and drawn as [?] ({some}, ...); "
            "for Chinese install for instance Noto Sans CJK",
        )

    def runs(self, text: str) -> list[tuple[str, ImageFont.FreeTypeFont]]:
        """The text cut where the font changes; characters that no font has become one [?] for each stretch of them."""
        runs: list[tuple[str, ImageFont.FreeTypeFont]] = []
        lost = False
        for character in text:
            code = ord(character)
            if code in self._other_has and code not in self._plain_has and self._other is not None:
                piece, font = character, self._other
            elif code in self.missing:
                piece, font = ("" if lost else "[?]"), self.plain
            else:
                piece, font = character, self.plain
            lost = code in self.missing
            if runs and runs[-1][1] is font:
                runs[-1] = (runs[-1][0] + piece, font)
            else:
                runs.append((piece, font))
        return runs

    def width(self, text: str) -> float:
        return sum(font.getlength(piece) for piece, font in self.runs(text))

    def draw(self, draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str) -> None:
        left, top = corner
        for piece, font in self.runs(text):
            draw.text((left, top + TEXT_SIZE), piece, INK, font, anchor="ls")  # on one baseline
            left += font.getlength(piece)

    def wrap(self, text: str, width: int, lines: int) -> list[str]:
        """Lines no wider than `width`, broken at spaces and between Chinese characters; the last ends in ... if cut."""
        found, line = [], ""
        for word in _breakable(text):
            if line and self.width((line + word).rstrip()) > width:
                found.append(line.rstrip())
                line = ""
            line += word.lstrip() if not line else word
        found.append(line.rstrip())
        if len(found) > lines:
            last = found[lines - 1]
            while last and self.width(last + "...") > width:
                last = last[:-1]
            found = [*found[: lines - 1], last + "..."]
        return found


def _breakable(text: str) -> list[str]:
    """Pieces between which a line may break; they join to the text with its white space made single."""
    pieces: list[str] = []
    for word in text.split():
        start = " " if pieces else ""
        for place, character in enumerate(word):
            wide = ord(character) > 0x2E80
            if place == 0 or wide or ord(word[place - 1]) > 0x2E80 or len(pieces[-1]) >= 16:
                pieces.append(start + character)
                start = ""
            else:
                pieces[-1] += character
    return pieces


@lru_cache(maxsize=4)
def find_font(wanted: frozenset[int]) -> Path | None:
    """The font file of this system that has most of the characters; None if none has any."""

    def place(path: Path) -> tuple[int, bool]:
        name = path.name.lower().replace("-", "").replace("_", "")
        family = next((rank for rank, family in enumerate(CHINESE_FONTS) if family in name), len(CHINESE_FONTS))
        return family, any(weight in name for weight in ("bold", "black", "light", "thin", "italic", "oblique"))

    best: tuple[int, Path | None] = (0, None)
    for path in sorted(map(Path, font_manager.findSystemFonts()), key=lambda path: (place(path), path.name)):
        has = len(wanted & _characters(path))
        if has == len(wanted):
            return path
        best = max(best, (has, path), key=lambda found: found[0])
    return best[1]


@lru_cache(maxsize=64)
def _characters(path: Path) -> frozenset[int]:
    try:
        ImageFont.truetype(path, TEXT_SIZE)  # a font of bitmaps only cannot be drawn at this size
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
