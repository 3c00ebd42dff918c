"""JPEG files to the pixels that a model sees: pictures a second on one core, and how near to Pillow they are.

    python benchmarks/media.py [--count 24] [--rounds 7]

Photos are crops of the two that scikit-learn ships, with light noise, at quality 90. `exact` and `fast` are the ways of
`preprocess.decoding` from a file's bytes to uint8 at 224 x 224; `transformers` is its CLIPImageProcessorPil, which also
normalizes. Rounds are interleaved, so that a busy machine hits all three alike, and the median counts. The
difference from `exact` is in grey levels on the mean; the cosine is between EfficientNet-Lite0's vectors, the lowest of
all photos in parentheses.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn.functional import cosine_similarity

from polymodal.data.decode import read_pixels
from polymodal.models import published
from polymodal.preprocess import ImagePreprocess

SIZES = ((640, 480), (1920, 1080), (4000, 3000))
EXACT, FAST, THEIRS = "exact", "fast", "transformers"
Way = Callable[[bytes], Any]


def photos(width: int, height: int, count: int) -> list[bytes]:
    """JPEG files; the crops of a photo differ in place and size."""
    draw = np.random.default_rng(0)
    made = []
    for number in range(count):
        whole = Image.fromarray(load_sample_images().images[number % 2])
        crop_width = int(min(whole.width, whole.height * width / height) * draw.uniform(0.6, 1))
        crop_height = crop_width * height // width
        left, top = (int(draw.integers(0, room + 1)) for room in (whole.width - crop_width, whole.height - crop_height))
        crop = whole.resize((width, height), box=(left, top, left + crop_width, top + crop_height))
        noisy = np.asarray(crop) + draw.normal(0, 2, (height, width, 3))
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def ways() -> dict[str, Way]:
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil()
    settings = {EXACT: ImagePreprocess(decoding="exact"), FAST: ImagePreprocess(decoding="fast")}
    return {
        EXACT: lambda content: read_pixels(content, None, settings[EXACT]),
        FAST: lambda content: read_pixels(content, None, settings[FAST]),
        THEIRS: lambda content: processor(Image.open(io.BytesIO(content)), return_tensors="np"),
    }


def rates(files: list[bytes], made: dict[str, Way], rounds: int) -> dict[str, float]:
    """Pictures a second of each way."""
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds + 1):
        for name, way in made.items():
            start = time.perf_counter()
            for content in files:
                way(content)
            seconds[name].append((time.perf_counter() - start) / len(files))
    return {name: 1 / statistics.median(taken[1:]) for name, taken in seconds.items()}  # the first round warms up


def agreement(files: list[bytes], made: dict[str, Way], embed: Callable[[NDArray[np.uint8]], Tensor]) -> str:
    exact, fast = (np.stack([made[name](content) for content in files]) for name in (EXACT, FAST))
    levels = np.abs(exact.astype(int) - fast).mean()
    cosines = cosine_similarity(embed(exact), embed(fast))
    return f"{levels:.3f} levels, cosine {cosines.mean():.5f} ({cosines.min():.5f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lite = published.load("pip:efficientnet-lite0")

    @torch.inference_mode()
    def embed(pixels: NDArray[np.uint8]) -> Tensor:
        pooled: Tensor = lite.model(lite.preprocess.image.normalize(torch.from_numpy(pixels))).pooled
        return pooled

    made = ways()
    table = Table("photos", *(f"{name}, pictures/s" for name in made), "fast is faster by", "fast against exact")
    for width, height in SIZES:
        files = photos(width, height, max(2, round(asked.count * min(1.0, 640 * 480 / (width * height)))))
        rate = rates(files, made, asked.rounds)
        table.add_row(
            f"{width} x {height}, {sum(map(len, files)) / len(files) / 1024:,.0f} KB",
            *(f"{rate[name]:,.1f}" for name in made),
            f"{rate[FAST] / rate[EXACT]:.1f} x, {rate[FAST] / rate[THEIRS]:.1f} x",
            agreement(files, made, embed),
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
