"""What do the text and the record say about the findings, alone and together? Cross-validation, with baselines.

    python examples/radiology/build.py downloads/
    python examples/radiology/demo.py --out demo-radiology
    python examples/radiology/demo.py --text findings --inputs text --no-baselines

Each report is predicted by models that have not seen it: five rounds, each with two of the ten folds for testing, one
for choosing the best epoch and seven for training. Intervals are 95 %, by bootstrap over the reports.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, SplineTransformer

import polymodal as pm
from polymodal.config import override, read_yaml
from polymodal.data.manifest import Manifest
from polymodal.metrics.intervals import Interval, bootstrap
from polymodal.metrics.ranking import auroc_of
from polymodal.train.run import fit

HERE = Path(__file__).parent
INPUTS = {"record": ("image", "record"), "text": ("image", "text"), "text + record": ("image", "text", "record")}
FOLDS = 10
NAMES = [str(fold) for fold in range(FOLDS)]

Numbers = NDArray[np.float64]
Rows = list[dict[str, str]]
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes to the recipe")
    parser.add_argument("--out", type=Path, default=Path("demo-radiology"), help="folder of the runs")
    parser.add_argument("--table", type=Path, default=HERE / "reports.csv")
    parser.add_argument("--text", choices=("indication", "findings"), default="indication")
    parser.add_argument("--inputs", action="append", choices=tuple(INPUTS), help="only these (again for more)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-baselines", action="store_true")
    options = parser.parse_args()
    recipe = read_yaml(HERE / "recipe.yaml")
    recipe["data"] |= {"table": str(options.table)}
    recipe["data"]["inputs"]["text"]["columns"] = [options.text]
    if options.text == "findings":
        recipe["data"]["inputs"]["text"]["max_length"] = 128
    with options.table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Numbers]] = {}
    for name in options.inputs or INPUTS:
        if not options.no_baselines:
            found[f"baseline: {name}"] = [predicted(rows, options.rounds, baseline(recipe, rows, name))]
        changed = chosen(recipe, name, options.changes)
        found[name] = [
            predicted(rows, options.rounds, network(changed, options.table, options.out, name, seed))
            for seed in range(options.seeds)
        ]
    labels = recipe["data"]["targets"]["labels"]["columns"]
    show(compare(rows, labels, options.rounds, found), options.out, options.text)


def chosen(recipe: Mapping[str, Any], name: str, changes: Sequence[str]) -> dict[str, Any]:
    """The recipe with some of its inputs, and changes."""
    changed: dict[str, Any] = override(json.loads(json.dumps(recipe)), changes)
    for part in (changed["data"]["inputs"], changed["model"].get("encoders", {}), changed["model"].get("init", {})):
        for absent in set(part) - set(INPUTS[name]):
            del part[absent]
    if "text" not in INPUTS[name]:
        changed.pop("tokenizer", None)
        changed["trainer"].pop("freeze", None)
    return changed


# ---------------------------------------------------------------------------------------------------------------------
# Each report predicted by a model that has not seen it


def test_folds(number: int) -> list[str]:
    return NAMES[2 * number : 2 * number + 2]


def predicted(rows: Rows, rounds: int, predict: Callable[[int], Numbers]) -> Numbers:
    """(rows, labels) scores; not a number for reports that no round tests."""
    parts = {number: predict(number) for number in range(rounds)}
    scores = np.full((len(rows), next(iter(parts.values())).shape[1]), np.nan)
    for number, part in parts.items():
        scores[np.isin([row["fold"] for row in rows], test_folds(number))] = part
    return scores


def network(recipe: Mapping[str, Any], table: Path, out: Path, name: str, seed: int) -> Callable[[int], Numbers]:
    def predict(number: int) -> Numbers:
        test, val = test_folds(number), NAMES[(2 * number + 2) % FOLDS]
        folds = {"test": test, "val": [val], "train": [fold for fold in NAMES if fold not in (*test, val)]}
        folder = out / f"{name.replace(' + ', '-')}-round{number}-seed{seed}"
        began = time.perf_counter()
        if not (folder / "artifact").exists():
            data, trainer = {**recipe["data"], **folds}, {**recipe["trainer"], "seed": seed}
            fit({**recipe, "data": data, "trainer": trainer}, out=folder)
        model = pm.load(folder)
        manifest = Manifest.read(table)
        outputs = model.outputs(model.rows(manifest.select(manifest.holds({"fold": tuple(test)}))))
        console.print(f"{folder}: {time.perf_counter() - began:.0f} s")
        scores: Numbers = outputs["labels"].double().numpy()
        return scores

    return predict


def baseline(recipe: Mapping[str, Any], rows: Rows, name: str) -> Callable[[int], Numbers]:
    """Sums of logits: on the text of logistic regression on TF-IDF; on the record of logistic regression (splines of
    numbers, categories) and of gradient boosting (numbers); together of all three.
    """
    inputs, targets = recipe["data"]["inputs"], recipe["data"]["targets"]
    [text], columns = inputs["text"]["columns"], inputs["record"]["columns"]
    known = [row for row in rows if row["normal"]]
    numeric = [one for one in columns if all(_is_number(row[one]) for row in rows if row[one])]
    named = [one for one in columns if one not in numeric]
    labels = np.array([[int(row[label]) for label in targets["labels"]["columns"]] for row in known])

    def record(part: Rows) -> NDArray[Any]:
        numbers = [[float(row[one] or "nan") for one in numeric] for row in part]
        return np.concatenate([np.array(numbers, object), np.array([[row[one] for one in named] for row in part])], 1)

    def models() -> list[tuple[Callable[[Rows], Any], Any]]:
        places = list(range(len(numeric))), list(range(len(numeric), len(columns)))
        one_hot = OneHotEncoder(handle_unknown="ignore", min_frequency=10)
        smooth = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), SplineTransformer(4, degree=2))
        linear = make_pipeline(
            ColumnTransformer([("numbers", smooth, places[0]), ("names", one_hot, places[1])]),
            LogisticRegression(C=0.03, max_iter=300),
        )
        boosted = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.05, max_leaf_nodes=8)
        words = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), LogisticRegression(max_iter=300)
        )
        found: list[tuple[Callable[[Rows], Any], Any]] = []
        if "text" in INPUTS[name]:
            found.append((lambda part: [row[text] for row in part], words))
        if "record" in INPUTS[name]:
            found.append((record, linear))
            found.append((lambda part: record(part)[:, : len(numeric)].astype(float), boosted))
        return found

    def predict(number: int) -> Numbers:
        tested = set(test_folds(number))
        train = np.array([row["fold"] not in tested for row in known])
        seen = [row for row, kept in zip(known, train, strict=True) if kept]
        asked = [row for row in rows if row["fold"] in tested]
        total = np.zeros((len(asked), labels.shape[1]))
        for read, model in models():
            given, wanted = read(seen), read(asked)
            for place, truth in enumerate(labels[train].T):
                shares = model.fit(given, truth).predict_proba(wanted)[:, 1].clip(1e-6, 1 - 1e-6)
                total[:, place] += np.log(shares / (1 - shares))
        return total

    return predict


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# What came out


def macro_auroc(scores: Sequence[Numbers], truth: NDArray[np.bool_]) -> Callable[[NDArray[np.int64]], Numbers]:
    """For `bootstrap`: the mean over seeds and labels."""
    each = [auroc_of(one[:, place], truth[:, place]) for one in scores for place in range(truth.shape[1])]

    def of(rows: NDArray[np.int64]) -> Numbers:
        mean: Numbers = np.nanmean([one(rows) for one in each], axis=0)
        return mean

    return of


def compare(rows: Rows, labels: Sequence[str], rounds: int, found: Mapping[str, Sequence[Numbers]]) -> dict[str, Any]:
    """Macro-AUROC of each set of inputs with its interval, and of the differences from the last one, pair by pair."""
    tested = {fold for number in range(rounds) for fold in test_folds(number)}
    kept = np.array([bool(row["normal"]) and row["fold"] in tested for row in rows])
    truth = np.array([[row[label] == "1" for label in labels] for row in rows])[kept]
    whole = np.arange(kept.sum())[None]
    results = {}
    for name, scores in found.items():
        of = macro_auroc([one[kept] for one in scores], truth)
        seeds = [float(macro_auroc([one[kept]], truth)(whole)[0]) for one in scores]
        low, high = bootstrap(of, len(truth), resamples=500)
        results[name] = {"auroc": float(of(whole)[0]), "low": low, "high": high, "seeds": seeds}
    differences = {}
    for kind in ("", "baseline: "):
        if (both := found.get(f"{kind}text + record")) is None:
            continue
        for single in ("text", "record"):
            if (other := found.get(f"{kind}{single}")) is not None:
                interval = _difference([one[kept] for one in both], [one[kept] for one in other], truth)
                differences[f"{kind}text + record over {single}"] = list(interval)
    return {"rows": len(truth), "results": results, "differences": differences}


def _difference(first: Sequence[Numbers], second: Sequence[Numbers], truth: NDArray[np.bool_]) -> Interval:
    one, other = macro_auroc(first, truth), macro_auroc(second, truth)
    return bootstrap(lambda rows: one(rows) - other(rows), len(truth), resamples=500)


def show(report: Mapping[str, Any], out: Path, text: str) -> None:
    table = Table(title=f"macro-AUROC over the labels, {report['rows']:,} reports; text: {text}")
    for heading in ("inputs", "AUROC", "95 % interval", "seeds"):
        table.add_column(heading, justify="left" if heading == "inputs" else "right")
    for name, found in report["results"].items():
        seeds = ", ".join(f"{value:.3f}" for value in found["seeds"])
        table.add_row(name, f"{found['auroc']:.3f}", f"{found['low']:.3f} to {found['high']:.3f}", seeds)
    console.print(table)
    for name, (low, high) in report["differences"].items():
        console.print(f"{name}: {low:+.3f} to {high:+.3f} (95 %, the same resamples for both)")
    (out / f"{text}.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
