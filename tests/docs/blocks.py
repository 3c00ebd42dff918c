"""Reads the code blocks of Markdown pages, so that the tests can run what the reader would type."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/en/*.md")])
TWINS = {page: ROOT / "README.zh-CN.md" if page.name == "README.md" else ROOT / "docs/zh" / page.name for page in PAGES}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str  # the word behind the opening fence
    code: str
    line: int  # of the opening fence, from 1


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in _FENCE.finditer(text)]


def without_comments(code: str) -> str:
    """Code as both languages must share it: comments are prose and may be translated."""
    return "\n".join(
        re.sub(r"\s*(^|\s)#( .*)?$", "", line).rstrip() for line in code.splitlines() if line.strip()
    ).strip()
