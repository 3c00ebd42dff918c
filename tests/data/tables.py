"""Small tables of rows, as a user would have them on disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polymodal.data import Manifest, read
from tests.data.files import write_text


def table(folder: Path, rows: Sequence[Mapping[str, Any]], **options: Any) -> Manifest:
    """A manifest of JSON lines."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return read(write_text(folder / "t.jsonl", lines), **options)
