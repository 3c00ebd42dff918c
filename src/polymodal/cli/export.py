"""`polymodal export`"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polymodal.cli.output import print_json, print_table

if TYPE_CHECKING:
    from polymodal.export.run import Exported


def run(
    artifact: Annotated[str, typer.Argument(help="Artifact or run folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the export; one that is there is replaced.")],
    format: Annotated[  # noqa: A002
        str, typer.Option(help="onnx (extra `onnx`), openvino (extra `openvino`), or program (torch.export).")
    ] = "onnx",
    data: Annotated[
        Path | None, typer.Option(help="Table with the model's columns, whose rows the export is compared on.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what export.json holds.")] = False,
) -> None:
    """Write an artifact's model in another program's format, and prove that it says the same.

    The folder runs without torch and without polymodal: its README.md holds the lines of Python. Batch size and lengths
    of texts are free. The first 256 rows of `--data` (without it random inputs) go through the model and the export; if
    any number differs by more than 1e-4 of the greatest (at least of 1), nothing is left and the exit code is 1.

    **Examples**

    - `polymodal export runs/a --out a-onnx --data pairs.csv`
    - `polymodal export runs/a --format openvino --out a-openvino --json`
    """
    from polymodal.export.run import export

    found = export(artifact, out, format=format, data=data)  # type: ignore[arg-type]  # export refuses others
    if as_json:
        print_json(found.about)
    else:
        _print(found)


def _print(found: "Exported") -> None:
    parity = found.about["parity"]
    rows = ", ".join(f"{name} {count:,}" for name, count in parity["rows"].items())
    print(f"compared on {parity['source']} (rows: {rows}), in float32")
    lines = [
        (
            name,
            f"{one['max']:.1e}",
            f"{one['mean']:.1e}",
            f"{one['labels']:.2%}" if "labels" in one else "",
            f"{one['neighbors']:.2%}" if "neighbors" in one else "",
        )
        for name, one in parity["outputs"].items()
    ]
    print_table(("output", "largest difference", "mean", "same label", "same neighbor"), lines)
    print(found.folder)
