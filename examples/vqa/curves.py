"""How many labelled questions does a model need? Started from what captions taught, and from random weights.

    python examples/vqa/curves.py --data vqa/data --start vqa/pretrained --out vqa/curves

Each point is one training on that many questions, drawn from all training questions; nothing else is labelled: no
step is chosen, the last one answers all test questions. Smaller draws are parts of larger ones.
Writes curves.json and curves.png.
"""

import argparse
import csv
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from polymodal.train import run

HERE = Path(__file__).parent
COUNTS = (250, 500, 1_000, 2_000, 4_000)
STEPS = 1500  # of every training, whatever its number of questions
LEVEL = 0.95  # of the test questions

Curve = Mapping[int, float]  # number of questions -> share of right answers
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that build.py has written")
    parser.add_argument("--start", type=Path, required=True, help="run of pretrain.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder of curves.json and curves.png")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of labelled questions")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0, help="of the draw and of the training")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    curves: dict[str, dict[int, float]] = {"pretrained": {}, "scratch": {}}
    for count in sorted(given.counts):
        for name, curve in curves.items():
            curve[count] = point(given.data, given.start if name == "pretrained" else None, count, given)
            console.print(f"{count:>6,} questions  {name:10}  {curve[count]:.2%}", highlight=False)
    report = {
        "curves": curves,
        "steps": given.steps,
        "seed": given.seed,
        f"questions for {LEVEL:.0%}": {name: enough(curve) for name, curve in curves.items()},
    }
    (given.out / "curves.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    draw(curves, given.out / "curves.png")


def point(data: Path, start: Path | None, count: int, given: argparse.Namespace) -> float:
    """Share of right answers to the test questions after training on `count` questions."""
    recipe, changes = ("scratch.yaml", []) if start is None else ("finetune.yaml", [f"model.start={start}"])
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "labels.csv"
        write_labels(data, table, count, given.seed)
        changes += [f"trainer.steps={given.steps}", f"trainer.val_every={given.steps}", f"trainer.seed={given.seed}"]
        done = run.fit(HERE / recipe, table, out=Path(folder) / "run", overrides=changes)
        share: float = done.metrics["validation"]["answer"]["accuracy"]
        return share


def write_labels(data: Path, file: Path, count: int, seed: int) -> None:
    """`count` of the training questions, drawn, and all test questions as those that the last step answers.

    Pictures are named by whole paths.
    """
    rows = [row for row in read(data / "train.csv") if row["split"] == "train"]
    drawn = random.Random(seed).sample(rows, len(rows))[:count]
    drawn += [row | {"split": "val"} for row in read(data / "test.csv")]
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["image", "question", "answer", "split"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"image": str((data / row["image"]).resolve())} for row in drawn)


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def enough(curve: Curve) -> int | None:
    """The smallest number of questions from which on the level is held; None: no number was enough."""
    short = [count for count, share in curve.items() if share < LEVEL]
    return min((count for count in curve if count > max(short, default=0)), default=None)


def draw(curves: Mapping[str, Curve], picture: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    names: Sequence[tuple[str, str]] = (("pretrained", "pre-trained on captions"), ("scratch", "from random weights"))
    for name, label in names:
        axes.plot(list(curves[name]), list(curves[name].values()), marker="o", label=label)
    axes.axhline(LEVEL, color="gray", linestyle=":", label=f"{LEVEL:.0%}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(curves["scratch"]), [f"{count:,}" for count in curves["scratch"]])
    axes.set_xlabel("labelled questions")
    axes.set_ylabel("right answers, all test questions")
    axes.legend()
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main()
