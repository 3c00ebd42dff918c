"""Options of the verbs that run a model: what computes it, and in what."""

from collections.abc import Iterable
from typing import Annotated, Literal

import typer

from polymodal.cli.output import say

PANEL = "How it computes"
Backend = Annotated[
    Literal["auto", "torch", "openvino", "onnx"],
    typer.Option(help="auto: the fastest here, measured once for each artifact.", rich_help_panel=PANEL),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"],
    typer.Option(help="auto: bfloat16 where the CPU has it, else float32; see `bench`.", rich_help_panel=PANEL),
]
Cache = Annotated[
    bool,
    typer.Option(
        "--cache",
        help="Keep vectors, and take those of the same pictures and texts from before.",
        rich_help_panel=PANEL,
    ),
]


def say_notes(notes: Iterable[str]) -> None:
    """What is not as it was asked for."""
    for note in notes:
        say(f"note: {note}")
