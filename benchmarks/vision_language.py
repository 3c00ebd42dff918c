"""Pre-training a small ViLBERT by `polymodal fit` against a plain loop over transformers' LXMERT of equal FLOPs.

    python benchmarks/vision_language.py [--steps 12] [--batch-size 16] [--width 256] [--vocab 30522] [--threads 1]

Both learn the same three things of the same rows: masked words, the detector's classes of masked regions, and whether
text and picture belong together (half of the texts are swapped). Layers are such that both models do the same work on a
full batch, heads included; it is counted and printed. `fit` is the whole of it: table, batches, masks, log. The
plain loops get their batches masked and ready-made in memory and do nothing but forward, backward and AdamW as torch
gives it; texts are padded to 36 tokens, as ViLBERT's and LXMERT's recipes do to a fixed length, or to the batch.
Captions are as long as those of Conceptual Captions (Sharma et al. 2018: mean 10.3, standard deviation 4.5 tokens).
After each step of `fit` each loop makes one, so that a busy machine hits all alike; medians count, by the clock and by
the processor's time, which other work hardly touches.
"""

import argparse
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import Callback
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from polymodal.encoders.bert import BertConfig
from polymodal.encoders.regions import RegionsConfig
from polymodal.models.multimodal import Multimodal
from polymodal.models.vilbert import vilbert
from polymodal.objectives.joint_step import JointStep
from polymodal.text import Tokenizer
from polymodal.train import run
from polymodal.train.multimodal import MultimodalJob, MultimodalPrepared, MultimodalRecipe, prepare_multimodal
from polymodal.types import Batch, Input, Regions, StepResult, Text

REGIONS, FEATURES, CLASSES, LONGEST = 36, 2048, 1601, 36
PARTS = ("data", "forward", "backward", "optimizer")
AIM = 1.5  # of the ratio by the clock, to the loop padded as the recipes have it
FIT, PADDED, TRIMMED = "polymodal fit", "LXMERT, to 36 tokens", "LXMERT, to the batch"


class Mark(NamedTuple):
    """A moment."""

    clock: float  # s
    processor: float  # s of all threads of this process


def now() -> Mark:
    return Mark(time.perf_counter(), time.process_time())


class Taken(NamedTuple):
    """Seconds of one step."""

    clock: float
    processor: float
    parts: tuple[float, ...]  # by the clock, of `PARTS`; the last with clipping and the log

    @classmethod
    def of(cls, marks: Sequence[Mark]) -> "Taken":
        clocks = [mark.clock for mark in marks]
        parts = tuple(later - sooner for sooner, later in itertools.pairwise(clocks))
        return cls(clocks[-1] - clocks[0], marks[-1].processor - marks[0].processor, parts)


def make_rows(folder: Path, count: int, vocab: int) -> Tokenizer:
    """A table of captions and regions, and the tokenizer of its words, in a folder."""
    draw = np.random.default_rng(0)
    words = [_word(number) for number in range(vocab - 5)]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]), "utf-8")
    spread = math.sqrt(math.log(1 + (4.5 / 10.3) ** 2))
    lengths = draw.lognormal(math.log(10.3) - spread**2 / 2, spread, count).round().clip(2, LONGEST - 2).astype(int)
    often = 1 / np.arange(1, len(words) + 1)  # Zipf
    lines = ["regions,caption"]
    for number, length in enumerate(lengths):
        corners = np.sort(draw.random((REGIONS, 2, 2), np.float32), axis=1).reshape(REGIONS, 4)
        said = draw.dirichlet(np.full(CLASSES, 0.05), REGIONS).astype(np.float32)
        features = draw.standard_normal((REGIONS, FEATURES), np.float32)
        np.savez(folder / f"{number}.npz", features=features, boxes=corners, cls_prob=said)
        lines.append(f"{number}.npz,{' '.join(draw.choice(words, length, p=often / often.sum()))}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return Tokenizer.load(folder)


def _word(number: int) -> str:
    """Made-up words, each a piece of its own."""
    letters = ""
    while number >= 0:
        number, letter = divmod(number, 26)
        letters, number = chr(97 + letter) + letters, number - 1
    return letters


def recipe(folder: Path, asked: argparse.Namespace) -> MultimodalRecipe:
    text = BertConfig(layers=3, width=asked.width, heads=asked.width // 64, max_length=LONGEST, dropout=0.1)
    image = RegionsConfig(
        feature_width=FEATURES,
        width=asked.width,
        global_region=True,
        heads=asked.width // 64,
        pool="first",
        dropout=0.1,
    )
    model = vilbert(text, image, text_layers=(1,) * 3, image_layers=(1,) * 3, width=asked.width, heads=text.heads)
    inputs = {
        "text": {"kind": "text", "columns": ["caption"], "max_length": LONGEST},
        "image": {"kind": "regions", "columns": ["regions"]},
    }
    return MultimodalRecipe.parse(
        {
            "data": {"table": str(folder / "rows.csv"), "inputs": inputs, "val_fraction": 0.0},
            "model": {"encoders": model.to_dict()["encoders"], "fusion": model.to_dict()["fusion"]},
            "objectives": [
                {"kind": "masked_text"},
                {"kind": "masked_regions", "input": "image"},
                {"kind": "matching", "negatives": "swap"},
            ],
            "trainer": {"steps": asked.steps, "batch_size": asked.batch_size, "lr": 1e-4, "log_every": 1},
        },
        "benchmark",
    )


def lxmert(asked: argparse.Namespace) -> Any:
    """Five layers of text and two of regions, then three of both: with ViLBERT's 3 + 3 x 2 the same matrix products."""
    from transformers import LxmertConfig, LxmertForPreTraining

    config = LxmertConfig(
        vocab_size=asked.vocab,
        hidden_size=asked.width,
        num_attention_heads=asked.width // 64,
        intermediate_size=4 * asked.width,
        num_object_labels=CLASSES,
        l_layers=5,
        r_layers=2,
        x_layers=3,
        visual_feat_dim=FEATURES,
        task_qa=False,
        visual_attr_loss=False,
        visual_feat_loss=False,
    )
    return LxmertForPreTraining(config).train()


def ready(prepared: MultimodalPrepared, longest: int | None) -> list[dict[str, Any]]:
    """What LxmertForPreTraining is called with, masked and swapped by our own objectives beforehand."""
    size, count = prepared.batch_size, len(prepared.train)
    batches = [prepared.train.batch(range(start, start + size)) for start in range(0, count - size + 1, size)]
    return [_masked(prepared, batch, number, longest) for number, batch in enumerate(batches)]


def _masked(prepared: MultimodalPrepared, batch: Batch, seed: int, longest: int | None) -> dict[str, Any]:
    step = JointStep(prepared.model, batch, torch.Generator().manual_seed(seed))
    words, regions, swapped = prepared.objectives.prepare(step)
    truth, text, image = step.paired.inputs["text"], step.hidden["text"], step.hidden["image"]
    assert isinstance(truth, Text)
    assert isinstance(text, Text)
    assert isinstance(image, Regions)
    assert image.classes is not None
    room = (0, 0 if longest is None else longest - text.ids.shape[1])
    pad = torch.nn.functional.pad
    return {
        "input_ids": pad(text.ids, room),
        "attention_mask": pad(text.mask.long(), room),
        "labels": pad(truth.ids.masked_fill(~words, -100), room, value=-100),
        "visual_feats": image.features,
        "visual_pos": image.boxes,
        "obj_labels": {"obj": (image.classes.argmax(-1), regions.float())},
        "matched_label": (~swapped).long(),
    }


def plain_loop(model: Any, batches: Sequence[dict[str, Any]]) -> Callable[[], Taken]:
    """Each call is a step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    turn = itertools.cycle(batches)

    def step() -> Taken:
        batch = next(turn)
        marks = [now(), now()]
        loss = model(**batch).loss
        marks.append(now())
        loss.backward()
        marks.append(now())
        optimizer.step()
        optimizer.zero_grad()
        return Taken.of([*marks, now()])

    return step


class Watch(Callback):
    """Times the steps of `fit`, and lets others make one of theirs after each."""

    def __init__(self, others: Mapping[str, Callable[[], Taken]]) -> None:
        self.others = others
        self.taken: dict[str, list[Taken]] = {name: [] for name in (FIT, *others)}
        self._marks: list[Mark] = []

    def on_train_start(self, *_: Any) -> None:
        self._marks = [now()]

    def on_train_batch_start(self, *_: Any) -> None:
        self._marks.append(now())

    def on_before_backward(self, *_: Any) -> None:
        self._marks.append(now())

    def on_after_backward(self, *_: Any) -> None:
        self._marks.append(now())

    def on_train_batch_end(self, *_: Any) -> None:
        self.taken[FIT].append(Taken.of([*self._marks, now()]))
        for name, step in self.others.items():
            self.taken[name].append(step())
        self._marks = [now()]


class Watched(MultimodalJob):
    def __init__(self, prepared: MultimodalPrepared, watch: Watch) -> None:
        super().__init__(prepared)
        self.watch = watch

    def callbacks(self) -> list[Callback]:
        return [*super().callbacks(), self.watch]


def dense_gflop(batch: dict[str, Any], ours: Multimodal, theirs: Any) -> tuple[float, float]:
    """GFLOP a sample, forward and backward, with every token real and every head at every place."""
    batch = _few(batch)
    ids, boxes = torch.ones_like(batch["input_ids"]), batch["visual_pos"]
    everywhere = torch.ones(boxes.shape[:2], dtype=torch.bool)

    def our_loss() -> Tensor:
        inputs: dict[str, Input] = {
            "text": Text(ids, ids.bool()),
            "image": Regions(batch["visual_feats"], boxes, everywhere),
        }
        fused = ours.fuse(*ours.encode(inputs))
        heads = ours.pretraining
        words = heads["masked_text"](fused.tokens["text"].sequence.flatten(0, 1))
        regions = heads["masked_regions"](fused.tokens["image"].sequence[:, 1:].flatten(0, 1))["classes"]
        total: Tensor = words.sum() + regions.sum() + heads["matching"](fused.pooled).sum()
        return total

    full = batch | {"input_ids": ids, "attention_mask": ids, "labels": ids}
    losses: tuple[Callable[[], Tensor], ...] = (our_loss, lambda: theirs(**full).loss)
    return tuple(_gflop(loss) / len(ids) for loss in losses)  # type: ignore[return-value]


def done_gflop(prepared: MultimodalPrepared) -> float:
    """GFLOP a sample of a step as `fit` does it."""
    size = prepared.batch_size
    batches = range(min(4, len(prepared.train) // size))

    def loss(number: int) -> Tensor:
        batch = prepared.train.batch(range(number * size, number * size + size))
        found: StepResult = prepared.objectives(
            JointStep(prepared.model.train(), batch, torch.Generator().manual_seed(number))
        )
        return found.loss

    return statistics.mean(_gflop(lambda number=number: loss(number)) for number in batches) / size  # type: ignore[misc]


def _gflop(loss: Callable[[], Tensor]) -> float:
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    return float(counter.get_total_flops()) / 1e9


def matmul_gflops() -> float:
    """What this machine reaches in float32 at the moment: the best of some products of 1024 x 1024 matrices."""
    left, right = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = math.inf
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * 1024**3 / best / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=30522)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["POLYMODAL_CACHE"] = str(folder / "cache")
        tokenizer = make_rows(folder, max(4, min(asked.steps, 12)) * asked.batch_size, asked.vocab)
        prepared = prepare_multimodal(recipe(folder, asked), lambda note: None, tokenizer)
        padded, trimmed = ready(prepared, LONGEST), ready(prepared, None)
        theirs = lxmert(asked)
        describe(trimmed, *dense_gflop(padded[0], prepared.model, theirs))
        gflop = [done_gflop(prepared), _mean_gflop(theirs, padded), _mean_gflop(theirs, trimmed)]
        limit = matmul_gflops()
        watch = Watch({PADDED: plain_loop(theirs, padded), TRIMMED: plain_loop(lxmert(asked), trimmed)})
        run.carry_out(Watched(prepared, watch), folder / "run")
        limit = max(limit, matmul_gflops())
    ratios = show({name: steps[2:] for name, steps in watch.taken.items()}, gflop, asked.batch_size, limit)
    sys.exit(ratios[PADDED] < AIM)


def describe(trimmed: Sequence[dict[str, Any]], ours: float, theirs: float) -> None:
    lengths = statistics.mean(batch["attention_mask"].sum(1).float().mean().item() for batch in trimmed)
    longest = statistics.mean(batch["input_ids"].shape[1] for batch in trimmed)
    print(f"tokens of a text: {lengths:.1f}; of the longest of a batch: {longest:.1f}")
    print(
        "GFLOP a sample, forward and backward, every token real and every head everywhere: "
        f"ours {ours:.3f}, LXMERT {theirs:.3f}, ratio {ours / theirs:.3f}"
    )


def _mean_gflop(model: Any, batches: Sequence[dict[str, Any]]) -> float:
    few = [_few(batch) for batch in batches]
    total = statistics.mean(_gflop(lambda batch=batch: model(**batch).loss) for batch in few)  # type: ignore[misc]
    return total / len(few[0]["input_ids"])


def _few(batch: dict[str, Any]) -> dict[str, Any]:
    """Two rows: work is counted by the row, and all are padded to one length."""
    label, seen = batch["obj_labels"]["obj"]
    few = {name: value[:2] for name, value in batch.items() if name != "obj_labels"}
    return few | {"obj_labels": {"obj": (label[:2], seen[:2])}}


def show(taken: Mapping[str, list[Taken]], gflop: Sequence[float], rows: int, limit: float) -> dict[str, float]:
    """Medians over steps, and of the ratios of neighbouring ones; the ratios by the clock are given back."""
    ratios = {}
    print(f"float32 products of matrices reach {limit:.0f} GFLOP/s; {len(taken[FIT])} steps each")
    heads = ("samples/s", "quartiles", "fit faster by", "by processor", "GFLOP done", "of limit")
    table = Table("", *heads, *(f"{part} ms" for part in PARTS))
    for (name, steps), work in zip(taken.items(), gflop, strict=True):
        rates = [rows / step.clock for step in steps]
        low, rate, high = statistics.quantiles(rates, n=4)
        pairs = list(zip(steps, taken[FIT], strict=True))
        parts = [statistics.median(times) for times in zip(*(step.parts for step in steps), strict=True)]
        ratios[name] = statistics.median(step.clock / own.clock for step, own in pairs)
        table.add_row(
            name,
            f"{rate:.1f}",
            f"{low:.1f} to {high:.1f}",
            f"{ratios[name]:.2f} x",
            f"{statistics.median(step.processor / own.processor for step, own in pairs):.2f} x",
            f"{work:.2f}",
            f"{rate * work / limit:.0%}",
            *(f"{1000 * part:.0f}" for part in parts),
        )
    Console(width=160).print(table)
    return ratios


if __name__ == "__main__":
    main()
