"""`polymodal classify`"""

from pathlib import Path
from typing import Annotated

import typer

from polymodal.cli.computing import Backend, Cache, Precision, say_notes
from polymodal.cli.output import print_json, print_table, say, split_list
from polymodal.errors import ConfigError


def run(
    artifact: Annotated[str, typer.Argument(help="Artifact, run or checkpoint folder, or hub:org/name.")],
    images: Annotated[list[str], typer.Argument(help="Picture files.")],
    labels: Annotated[str | None, typer.Option(help="Names, with commas between them.")] = None,
    labels_file: Annotated[Path | None, typer.Option(help="Text file with one name a line.")] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help='Sentence with {} for the name, such as "a photo of a {}"; may be repeated.'),
    ] = None,
    top: Annotated[int, typer.Option("-k", "--top", min=1, help="Names shown for each picture.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    backend: Backend = "auto",
    precision: Precision = "auto",
    cache: Cache = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name pictures by labels that the model was never trained on (zero-shot).

    Each label is put into the template sentences of its language, and the picture is compared with their mean. Percents
    add up to 100 over the labels; for a SigLIP model each label stands for itself.

    **Examples**

    - `polymodal classify runs/a cat.jpg --labels "cat, dog, tree"`
    - `polymodal classify runs/a *.png --labels-file animals.txt --json`
    - `polymodal classify runs/a cat.jpg --labels 猫，狗，树`
    - `polymodal classify runs/a scan.png --labels "benign,malignant" --template "a histology picture of {} tissue"`
    """
    names = _labels(labels, labels_file)
    from polymodal.engine import load_engine

    engine = load_engine(artifact, device=device, backend=backend, precision=precision, cache=cache)
    say_notes(engine.notes)
    classes = engine.class_vectors(names, template)
    found = engine.embed(images=images, on_error="report", progress=True)
    named = {
        images[row]: guesses[:top]
        for row, guesses in zip(found.rows, engine.rank(found.vectors, names, classes), strict=True)
    }
    faults = [{"image": images[fault.place], "reason": fault.reason} for fault in found.faults]
    if as_json:
        answers = [{"image": image, "labels": [guess._asdict() for guess in named[image]]} for image in named]
        print_json({"images": answers, "faults": faults})
    else:
        rows = [
            (image if place == 0 else "", guess.label, f"{guess.probability:.1%}")
            for image, guesses in named.items()
            for place, guess in enumerate(guesses)
        ]
        if rows:
            print_table(("picture", "label", "probability"), rows)
        for fault in faults:
            say(f"not read: {fault['image']}: {fault['reason']}")
    if faults:
        raise typer.Exit(1)


def _labels(written: str | None, file: Path | None) -> list[str]:
    if (written is None) == (file is None):
        raise ConfigError('classify: give the names by --labels "cat,dog" or by --labels-file, one of the two')
    if written is not None:
        return split_list(written, "--labels")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines() if file else []
    except OSError as error:
        raise ConfigError(f"--labels-file {file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--labels-file {file}: is not UTF-8 text; save it as UTF-8") from None
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise ConfigError(f"--labels-file {file}: wanted one name a line, got an empty file")
    return names
