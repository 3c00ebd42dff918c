"""Which encoding a text file has: its byte order mark's, else UTF-8, else GB 18030, which contains GBK and GB 2312."""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path

from polymodal.data.reading import Reading
from polymodal.errors import DataError

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_BLOCK = 2**20


def find_encoding(path: Path, chosen: str | None, reading: Reading) -> tuple[str, bool]:
    """The file's encoding, and whether some bytes of it are no text in that encoding.

    Raises:
        DataError: the file cannot be read, or no encoding has the chosen name.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if chosen is not None:
        try:
            chosen = codecs.lookup(chosen).name
        except LookupError:
            raise DataError(f'{path}: no encoding is named "{chosen}"; use for instance utf-8 or gbk') from None
        encoding = "utf-8-sig" if (chosen, marked) == ("utf-8", "utf-8-sig") else chosen
        return encoding, not _decodes(path, encoding)
    encoding = marked or "utf-8"
    if encoding == "utf-16":
        reading.note("the file is UTF-16")
    if _decodes(path, encoding):
        return encoding, False
    utf8, gb18030 = _lines_that_decode(path, ("utf-8", "gb18030"))
    if marked or gb18030 == 0 or utf8 > gb18030 / 2:  # a few broken bytes: lines are seldom UTF-8 by chance
        return encoding, True
    reading.note("the file is GBK (read as GB 18030), not UTF-8")
    return "gb18030", not _decodes(path, "gb18030")


def first_broken(cells: Sequence[str]) -> tuple[int, int] | None:
    """Place and value of the first byte that could not be decoded, which `surrogateescape` left in the text."""
    for place, cell in enumerate(cells):
        for character in cell:
            if 0xDC80 <= ord(character) <= 0xDCFF:
                return place, ord(character) - 0xDC00
    return None


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with path.open("rb") as file:
        try:
            while block := file.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _lines_that_decode(path: Path, encodings: Iterable[str]) -> list[int]:
    """How many of the file's lines beyond ASCII are text in each encoding; the first 100,000 such lines are tried."""
    counts = dict.fromkeys(encodings, 0)
    tried = 0
    with path.open("rb") as file:
        while tried < 100_000 and (line := file.readline(_BLOCK)):
            if line.isascii():
                continue
            tried += 1
            for encoding in counts:
                try:
                    line.decode(encoding)
                except UnicodeDecodeError:
                    continue
                counts[encoding] += 1
    return list(counts.values())
