"""Spoken prompts and their words in one space: which of a hundred texts was said, and which sound says a text?

    python examples/speech/build.py speech.parquet
    python examples/speech/demo.py speech.parquet --out speech-demo

Five models, each trained on four fifths of the texts and asked about the fifth that it has not heard. A long text takes
long to say, so a ruler stands beside the models: how far does length alone get?
"""

import argparse
import io
import json
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

import polymodal as pm
from polymodal.engine.predict import Predictor
from polymodal.metrics.chance import retrieval_chance
from polymodal.metrics.intervals import bootstrap, mean_of
from polymodal.metrics.retrieval import median_rank, ranks
from polymodal.models.multimodal import Multimodal

RECIPE = Path(__file__).with_name("recipe.yaml")
FOLDS = 5
CUTOFFS = (1, 5, 10)
WAYS = ("speech to text", "text to speech")

console = Console()


class Fold(NamedTuple):
    """C clips and T different texts that were not trained on."""

    clips: Tensor  # (C, D) unit vectors
    texts: Tensor  # (T, D)
    pairs: Tensor  # (C, T) bool, which clip says which text
    by_length: Tensor  # (C, T) how well a clip's length fits a text's, higher is better


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="speech.parquet, as build.py writes it")
    parser.add_argument("--out", type=Path, default=Path("speech-demo"), help="folder of everything that is made")
    parser.add_argument("--folds", type=int, default=FOLDS, help="how many of the five models to train")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes to the recipe")
    options = parser.parse_intermixed_args()
    started = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    folds: list[Fold] = []
    for fold in range(options.folds):
        folds.append(hold_out(options.table, fold, options.out / f"fold-{fold}", options.changes))
        found = summarize(folds) | {"seconds": time.perf_counter() - started}
        (options.out / "speech.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        console.print(shown(found))
    console.print(f"{found['seconds'] / 60:.1f} minutes in all; the models: {options.out}/fold-*/artifact")


def hold_out(table: Path, fold: int, out: Path, changes: list[str]) -> Fold:
    """Train on the other folds, and embed this one."""
    others = json.dumps([str(other) for other in range(FOLDS) if other != fold])
    run = pm.fit(RECIPE, table, out=out, overrides=[f"data.train={others}", f'data.test=["{fold}"]', *changes])
    model = pm.load(run.artifact)
    assert isinstance(model, Predictor)
    rows = pm.Manifest.read(table, split_column="fold")
    held = np.asarray(rows.column("fold").to_pylist()) == str(fold)
    return embed(model, rows.select(held), rows.select(~held))


def embed(model: Predictor, rows: pm.Manifest, trained_on: pm.Manifest) -> Fold:
    """A text that stands at several clips is one text, and each of them is right."""
    prepared = model.rows(rows)
    whole = model.model
    assert isinstance(whole, Multimodal)
    clips, texts = [], []
    with torch.inference_mode():
        for start in range(0, len(rows), 32):
            batch = prepared.batch(np.arange(start, min(start + 32, len(rows))))
            tokens = whole(model.features.normalize(batch.inputs), batch.present).tokens
            first, second, _ = whole.pretraining["contrastive"](tokens)
            clips.append(first)
            texts.append(second)
    words = [plain(text) for text in rows.column("text").to_pylist()]
    each = sorted(set(words))
    where = torch.tensor([words.index(text) for text in each])
    pairs = torch.tensor([[text == other for other in each] for text in words])
    return Fold(torch.cat(clips), torch.cat(texts)[where], pairs, ruler(rows, each, trained_on))


def ruler(rows: pm.Manifest, texts: list[str], trained_on: pm.Manifest) -> Tensor:
    """-|seconds - (a letters + b)| of every clip and text; a and b by least squares over the training clips.

    It measures whole clips and whole texts. Texts of as many letters are told apart by chance, else a tie would count
    against the ruler, which has many, and never against a model.
    """
    read = [len(plain(text)) for text in trained_on.column("text").to_pylist()]
    slope, start = np.polyfit(read, seconds(trained_on), 1)
    off = np.abs(seconds(rows)[:, None] - (slope * np.array([len(text) for text in texts]) + start))
    return -torch.from_numpy(off + np.random.default_rng(0).uniform(0, 1e-6, off.shape))


def seconds(rows: pm.Manifest) -> NDArray[np.float64]:
    return np.array([soundfile.info(io.BytesIO(sound)).duration for sound in rows.column("audio").to_pylist()])


def plain(text: str) -> str:
    """The words alone, so that "Goodbye!" and "goodbye" are one text."""
    return " ".join(re.findall(r"[a-z0-9']+", text.lower()))


def summarize(folds: list[Fold]) -> dict[str, Any]:
    """R@k over the questions of all folds, each among the candidates of its own, with the ruler's and chance's."""
    found: dict[str, Any] = {"folds": len(folds)}
    for way in WAYS:
        asked = [fold if way == WAYS[0] else turned(fold) for fold in folds]
        model = torch.cat([ranks(one.clips @ one.texts.T, one.pairs) for one in asked])
        length = torch.cat([ranks(one.by_length, one.pairs) for one in asked])
        guess = [retrieval_chance(one.pairs.sum(1).tolist(), len(one.texts), CUTOFFS) for one in asked]
        shares = np.array([len(one.clips) for one in asked]) / len(model)
        found[way] = {
            "questions": len(model),
            "candidates": [len(one.texts) for one in asked],
            "median_rank": median_rank(model),
            "model": {f"R@{k}": with_interval(model, k) for k in CUTOFFS},
            "length": {f"R@{k}": with_interval(length, k) for k in CUTOFFS},
            "chance": {f"R@{k}": float(shares @ [one[f"R@{k}"] for one in guess]) for k in CUTOFFS},
        }
    return found


def turned(fold: Fold) -> Fold:
    """Texts that ask for clips."""
    return Fold(fold.texts, fold.clips, fold.pairs.T, fold.by_length.T)


def with_interval(places: Tensor, k: int) -> dict[str, float]:
    hits = (places <= k).numpy()
    return {"value": float(hits.mean()), **bootstrap(mean_of(hits), len(hits))._asdict()}


def shown(found: dict[str, Any]) -> Table:
    table = Table(title="prompts that were not heard in training, in their own fold")
    for heading in ("asked", "questions", "by", *(f"R@{k}" for k in CUTOFFS)):
        table.add_column(heading, justify="left" if heading in ("asked", "by") else "right")
    for way in WAYS:
        one = found[way]
        for by in ("model", "length"):
            cells = [f"{v['value']:.1%} ({v['low']:.1%} to {v['high']:.1%})" for v in one[by].values()]
            table.add_row(way, str(one["questions"]), by, *cells)
        table.add_row(way, str(one["questions"]), "chance", *(f"{value:.1%}" for value in one["chance"].values()))
    return table


if __name__ == "__main__":
    main()
