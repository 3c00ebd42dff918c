"""Every error that this package raises on purpose.

PolymodalError
├── ConfigError      a setting is missing, unknown, or out of range
├── ShapeError       a tensor does not have the shape that was asked for
├── DataError        a table, row or file cannot be read
├── ArtifactError    a checkpoint or artifact is damaged, or does not fit what loads it
└── TrainError       training cannot go on (out of memory, loss not finite)

Messages say where, what was wanted, what came, and what to do:
`clip.temperature must be in [0.01, 1], got 5.0`.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class PolymodalError(Exception):
    """Base of the errors above: catch this one to catch them all."""


class ConfigError(PolymodalError):
    """A setting is missing, unknown, or out of range."""


class ShapeError(PolymodalError):
    """A tensor does not have the shape that was asked for."""


class DataError(PolymodalError):
    """A table, row or file cannot be read."""


class ArtifactError(PolymodalError):
    """A checkpoint or artifact is damaged, or does not fit what loads it."""


class TrainError(PolymodalError):
    """Training cannot go on."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` for the nearest known name, or nothing when none is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""
