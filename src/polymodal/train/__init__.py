"""Training: a recipe and a table in, a run with an artifact out.

Importing this is quick; Lightning is imported when `fit` is called.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polymodal.train.recipe import Recipe
    from polymodal.train.run import Run

__all__ = ["fit", "resume"]


def fit(
    recipe: "str | Path | Recipe | Mapping[str, Any]" = "clip-tiny",
    table: str | Path | None = None,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> "Run":
    """Train by a recipe on a table; see `polymodal.train.run.fit`."""
    from polymodal.train import run

    return run.fit(recipe, table, out=out, overrides=overrides)


def resume(folder: str | Path, overrides: Sequence[str] = ()) -> "Run":
    """Go on with a run that was stopped; see `polymodal.train.run.resume`."""
    from polymodal.train import run

    return run.resume(folder, overrides)
