"""What the verbs share: results on stdout, talk and progress on stderr, lists as people type them."""

import json
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from polymodal.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table


def print_json(data: Any) -> None:
    """One JSON value on stdout, readable and with Chinese as it is."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*heads)
    for row in rows:
        table.add_row(*map(Text, row))  # Text: brackets in a caption are not markup
    print_whole(table)


def print_whole(table: "Table") -> None:
    """A rich table on stdout; as wide as it must be when stdout is no terminal, so that no word is cut."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, console.measure(table, options=console.options.update(width=10_000)).maximum)
    console.print(table)


def say(message: str) -> None:
    """A line of talk, on stderr."""
    print(message, file=sys.stderr)


def split_list(written: str, option: str) -> list[str]:
    """The items of `cat, dog` or `猫，狗、鸟`; equal ones once.

    Raises:
        ConfigError: there is none.
    """
    items = [item.strip() for item in re.split(r"[,，、\n]", written)]
    found = list(dict.fromkeys(item for item in items if item))
    if not found:
        raise ConfigError(f'{option}: wanted names with commas between them, got "{written}"')
    return found


def say_faults(faults: Sequence[object], where: str, shown: int = 5) -> None:
    """How many rows were left out, and the first of them, on stderr; nothing when there are none."""
    if len(faults) == 0:
        return
    say(f"left out {where}: {len(faults)}")
    for fault in list(faults[:shown]):
        say(f"  {fault}")
    if len(faults) > shown:
        say(f"  and {len(faults) - shown} more; `polymodal check` lists them")


def split_exclusions(written: Sequence[str]) -> dict[str, list[str]]:
    """Values by column, of `category=Flags` for each option `--exclude`.

    Raises:
        ConfigError: one is not written so.
    """
    found: dict[str, list[str]] = {}
    for one in written:
        name, sign, value = one.partition("=")
        if not (name and sign and value):
            raise ConfigError(f'--exclude "{one}": wanted COLUMN=VALUE, for instance category=Flags')
        found.setdefault(name, []).append(value)
    return found
