"""Questions about pictures: captions first, then questions with answers, then the test. Commands are shown.

    pip install "polymodal[examples]"
    python examples/vqa/demo.py --out vqa

README.md says what each step is for and what comes out.
"""

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import polymodal as pm
from polymodal.engine import Predictor

HERE = Path(os.path.relpath(Path(__file__).parent))  # as one would type it
AIM = 0.99  # of the test questions
KINDS = ("all", "yes or no", "color", "shape")
ASKED = 6  # pictures of which a few questions are shown

console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("vqa"), help="folder of everything that is made")
    out: Path = parser.parse_args().out
    started, computed = time.perf_counter(), sum(os.times()[:4])

    data = out / "data"
    run(HERE / "build.py", data)
    pretrained, finetuned = fresh(out / "pretrained"), fresh(out / "finetuned")
    fit("pretrain.yaml", data / "pretrain.csv", pretrained)
    fit("finetune.yaml", data / "train.csv", finetuned, f"model.start={pretrained}")

    console.print("\n[bold]# the test questions, about pictures that no training has seen[/bold]", highlight=False)
    predictor = pm.load(finetuned)
    assert isinstance(predictor, Predictor)
    rows = read_table(data / "test.csv")
    answers = answered(predictor, data / "test.csv")
    blind = answered(predictor, data / "test.csv", only=["text"])
    found = {"test": accuracies(rows, answers), "without the picture": accuracies(rows, blind)}
    console.print(summary(found))
    console.print(examples(rows, answers))
    console.print(f"the model: {finetuned}/artifact")
    minutes = {"wall": time.perf_counter() - started, "processor": sum(os.times()[:4]) - computed}
    minutes = {name: round(seconds / 60, 2) for name, seconds in minutes.items()}
    console.print(f"{minutes['wall']:.1f} minutes, {minutes['processor']:.1f} of processor time")
    report = {"accuracy": found, "questions": len(rows), "minutes": minutes}
    (out / "demo.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


def fit(recipe: str, table: Path, out: Path, *changes: str) -> None:
    run("-m", "polymodal", "fit", HERE / recipe, "--table", table, "--out", out, *changes)


def run(*words: Any) -> None:
    """Carry out a command of Python, shown."""
    command = [str(word) for word in words]
    shown = ["polymodal", *command[2:]] if command[0] == "-m" else ["python", *command]
    console.print(f"\n[bold]$ {shlex.join(shown)}[/bold]", highlight=False, soft_wrap=True)
    done = subprocess.run([sys.executable, *command])
    if done.returncode:
        sys.exit(done.returncode)


def fresh(folder: Path) -> Path:
    """A run's folder that is not taken yet: an earlier demo's run is never overwritten."""
    number = 1
    while (taken := folder if number == 1 else folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return taken


def read_table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def answered(predictor: Predictor, table: Path, only: Sequence[str] | None = None) -> list[str]:
    """The model's answer to every row; `only`: inputs that it may look at."""
    outputs = predictor.outputs(predictor.rows(table), only=only, batch_size=256, progress=True)["answer"]
    classes = predictor.features.targets["answer"].classes
    return [classes[place] for place in outputs.argmax(1).tolist()]


def kind(answer: str) -> str:
    """Of a question, by its right answer."""
    if answer in ("yes", "no"):
        return "yes or no"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "color"


def accuracies(rows: Sequence[dict[str, str]], answers: Sequence[str]) -> dict[str, float]:
    """Shares of right answers, over all questions and by their kind."""
    right = [(kind(row["answer"]), row["answer"] == answer) for row, answer in zip(rows, answers, strict=True)]
    parts = {name: [is_right for of, is_right in right if name in ("all", of)] for name in KINDS}
    return {name: sum(part) / len(part) for name, part in parts.items() if part}


def summary(found: dict[str, dict[str, float]]) -> Table:
    table = Table(title=f"right answers (aim: {AIM:.0%} of all)")
    for heading in ("", *KINDS):
        table.add_column(heading, justify="right" if heading else "left")
    for name, shares in found.items():
        table.add_row(name, *(f"{shares[one]:.2%}" if one in shares else "" for one in KINDS))
    return table


def examples(rows: Sequence[dict[str, str]], answers: Sequence[str]) -> Table:
    """The first question of each kind about the first pictures."""
    table = Table(title="asked and answered")
    for heading in ("picture", "question", "answer", ""):
        table.add_column(heading)
    seen: set[tuple[str, str]] = set()
    pictures = list(dict.fromkeys(row["image"] for row in rows))[:ASKED]
    for row, answer in zip(rows, answers, strict=True):
        key = row["image"], kind(row["answer"])
        if row["image"] in pictures and key not in seen:
            seen.add(key)
            table.add_row(
                row["image"], row["question"], answer, "" if answer == row["answer"] else f"wrong: {row['answer']}"
            )
    return table


if __name__ == "__main__":
    main()
