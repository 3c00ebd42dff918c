"""What the verbs share: results on stdout, talk and progress on stderr, lists as people type them."""

import json
import re
import sys
from typing import Any

from polymodal.errors import ConfigError


def print_json(data: Any) -> None:
    """One JSON value on stdout, readable and with Chinese as it is."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


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
