"""Samples a second of `polymodal fit` against a plain loop, and against a loop over transformers' CLIPModel.

    python benchmarks/training.py [--steps 20] [--rounds 5] [--batch-size 64] [--precision fp32] [--threads 2]

`fit` is the whole of it: the table, decoded pictures from the cache, tokenizing, logging. The two loops get their
batches ready-made in memory and do nothing but forward, backward, clip and fused AdamW, over our model and over
CLIPModel of equal shape. Rounds are interleaved, so that a busy machine hits all three alike; of a round's steps the
median counts.
"""

import argparse
import csv
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from polymodal.data.dataset import PairDataset
from polymodal.models import names
from polymodal.models.clip import Clip
from polymodal.objectives import info_nce
from polymodal.train import run
from polymodal.train.clip_job import ClipJob
from polymodal.train.log import read_log
from polymodal.train.prepare import Prepared
from polymodal.types import ImageTextBatch

WORDS = [
    "a",
    "dog",
    "cat",
    "man",
    "bicycle",
    "red",
    "sofa",
    "beach",
    "sleeps",
    "rides",
    "on",
    "the",
    "狗",
    "海滩",
    "红色",
]


def make_table(folder: Path, count: int) -> Path:
    """Pictures of noise at 64 pixels, and captions of 4 to 12 words."""
    draw = np.random.default_rng(0)
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "caption"])
        for number in range(count):
            Image.fromarray(draw.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / f"{number}.png")
            writer.writerow([f"{number}.png", " ".join(draw.choice(WORDS, draw.integers(4, 13)))])
    return folder / "pairs.csv"


def batches_of(prepared: Prepared) -> list[ImageTextBatch]:
    """The batches that `fit` trains on, made beforehand."""
    size = prepared.recipe.trainer.batch_size
    pairs = PairDataset(prepared.train, prepared.built.tokenizer, prepared.built.preprocess)
    rows = range(0, len(pairs) - size + 1, size)
    return [pairs.collate([pairs.pair(row, 0) for row in range(start, start + size)]) for start in rows]


def loop(parameters: list[nn.Parameter], loss: Callable[[int], Tensor], bf16: bool) -> Callable[[int], list[float]]:
    """Seconds of each of so many steps of a plain training loop."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), eps=1e-6, fused=True)

    def steps(count: int) -> list[float]:
        taken = []
        for step in range(count):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                value = loss(step)
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            taken.append(time.perf_counter() - start)
        return taken

    return steps


def plain_loop(prepared: Prepared, batches: list[ImageTextBatch], bf16: bool) -> Callable[[int], list[float]]:
    model: Clip = prepared.built.model.config.build()
    normalize = prepared.built.preprocess.image.normalize

    def loss(step: int) -> Tensor:
        batch = batches[step % len(batches)]
        out = model(normalize(batch.pixels), batch.text)
        return info_nce(out.image, out.text, out.scale)

    return loop(list(model.parameters()), loss, bf16)


def transformers_loop(prepared: Prepared, batches: list[ImageTextBatch], bf16: bool) -> Callable[[int], list[float]]:
    from transformers import CLIPConfig, CLIPModel

    config: Any = prepared.built.model.config
    tower = {"hidden_act": "gelu"}
    model: Any = CLIPModel(
        CLIPConfig(
            projection_dim=config.width,
            vision_config=tower
            | {
                "image_size": config.image.image_size,
                "patch_size": config.image.patch_size,
                "hidden_size": config.image.width,
                "intermediate_size": 4 * config.image.width,
                "num_hidden_layers": config.image.layers,
                "num_attention_heads": config.image.heads,
            },
            text_config=tower
            | {
                "vocab_size": config.text.vocab_size,
                "max_position_embeddings": config.text.max_length,
                "hidden_size": config.text.width,
                "intermediate_size": 4 * config.text.width,
                "num_hidden_layers": config.text.layers,
                "num_attention_heads": config.text.heads,
                "eos_token_id": 3,
                "bos_token_id": 2,
                "pad_token_id": 0,
            },
        )
    ).train()
    normalize = prepared.built.preprocess.image.normalize

    def loss(step: int) -> Tensor:
        batch = batches[step % len(batches)]
        out = model(
            input_ids=batch.text.ids,
            attention_mask=batch.text.mask.long(),
            pixel_values=normalize(batch.pixels),
            return_loss=True,
        )
        return out.loss  # type: ignore[no-any-return]

    return loop(list(model.parameters()), loss, bf16)


def fit_seconds(recipe: dict[str, Any], folder: Path) -> list[float]:
    """Seconds of each step, by the log that every run leaves."""
    done = run.fit(recipe, out=folder)
    size = recipe["trainer"]["batch_size"]
    return [size / line["samples_per_s"] for line in read_log(done.folder / "log.jsonl") if "samples_per_s" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model", default="clip-tiny", choices=sorted(names.MODELS))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    bf16 = asked.precision == "bf16"
    seconds: dict[str, list[float]] = {
        "polymodal fit": [],
        "plain loop, our model": [],
        "loop, CLIPModel": [],
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["POLYMODAL_CACHE"] = str(folder / "cache")
        recipe = {
            "data": {"table": str(make_table(folder, 8 * asked.batch_size)), "val_fraction": 0.0, "cache": "always"},
            "model": {"name": asked.model},
            "tokenizer": {"kind": "learned", "vocab_size": 1024},
            "trainer": {
                "steps": asked.steps,
                "batch_size": asked.batch_size,
                "precision": asked.precision,
                "log_every": 1,
            },
        }
        job = run.plan(recipe)
        assert isinstance(job, ClipJob)
        prepared = job.prepared
        ready = batches_of(prepared)
        ours, theirs = plain_loop(prepared, ready, bf16), transformers_loop(prepared, ready, bf16)
        for number in range(asked.rounds):
            # The first steps of each pay for warming up.
            taken = (fit_seconds(recipe, folder / f"run-{number}"), ours(asked.steps), theirs(asked.steps))
            for name, steps in zip(seconds, taken, strict=True):
                seconds[name].append(statistics.median(steps[len(steps) // 4 :]))
    show(seconds, asked.batch_size)


def show(seconds: dict[str, list[float]], batch_size: int) -> None:
    """Medians over rounds, and the ratio of each round's samples/s to those of `fit` in the same round."""
    table = Table("", "samples/s", "rounds", "fit is faster by")
    fit = seconds["polymodal fit"]
    for name, rounds in seconds.items():
        rates = [batch_size / value for value in rounds]
        ratio = statistics.median(value / own for value, own in zip(rounds, fit, strict=True))
        table.add_row(
            name, f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}", f"{ratio:.2f} x"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
