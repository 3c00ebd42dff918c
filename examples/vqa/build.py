"""Build the tables of the easy-vqa example: captions to pre-train on, questions to fine-tune on and to be measured by.

    pip install "polymodal[examples]"          # brings easy-vqa, 3 MB: pictures and questions
    python examples/vqa/build.py vqa-data      # a second or two; writes vqa-data/{pretrain,train,test}.csv and pictures

Nothing is drawn by chance: the same package gives the same bytes.
"""

import argparse
import csv
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

COLORS = {
    "black": "黑色",
    "blue": "蓝色",
    "brown": "棕色",
    "gray": "灰色",
    "green": "绿色",
    "red": "红色",
    "teal": "青色",
    "yellow": "黄色",
}
SHAPES = {"circle": "圆形", "rectangle": "长方形", "triangle": "三角形"}

# What is said of a picture. {thing} is its shape, or its color, or both; {other} is what it does not show.
CAPTIONS = (
    "a {color} {shape}",
    "what the image contains is a {color} {shape}",
    "the color of the {shape} is {color}",
    "the {color} shape is a {shape}",
    "there is a {thing} in the image",
    "the image does contain a {thing}",
    "a {thing} is present",
    "there is no {other} in the image",
    "the image does not contain a {other}",
)
CAPTIONS_ZH = ("一个{color}的{shape}", "图中有一个{color}{shape}")

VAL = 10  # one picture in so many validates


class Question(NamedTuple):
    text: str
    answer: str
    picture: int


class Scene(NamedTuple):
    color: str
    shape: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the tables; made if it is not there")
    for name, rows in build(parser.parse_args().out).items():
        print(f"{name}: {rows:,} rows")


def build(out: Path) -> dict[str, int]:
    """Write the tables and the pictures that they name; the number of rows of each table.

    Raises:
        SystemExit: easy-vqa is not installed.
    """
    data = _package() / "data"
    questions = {part: _questions(data / part / "questions.json") for part in ("train", "test")}
    for part in questions:
        shutil.copytree(data / part / "images", out / part, dirs_exist_ok=True)
    tables = {
        "pretrain.csv": captions(scenes(questions["train"])),
        "train.csv": (_row("train", one) | {"split": split(one.picture)} for one in questions["train"]),
        "test.csv": (_row("test", one) for one in questions["test"]),
    }
    return {name: _write(out / name, rows) for name, rows in tables.items()}


def _row(part: str, one: Question) -> dict[str, str]:
    return {"image": f"{part}/{one.picture}.png", "question": one.text, "answer": one.answer}


def split(picture: int) -> str:
    """Of a training picture. Its number means nothing, so every tenth is as good as a draw."""
    return "val" if picture % VAL == VAL - 1 else "train"


def scenes(questions: Iterable[Question]) -> dict[int, Scene]:
    """What pictures show, where their questions with the answers tell all of it: 3,542 of the 4,000 for training."""
    known: dict[int, dict[str, str]] = {}
    for one in questions:
        scene = known.setdefault(one.picture, {})
        for word in [*_words(one.text, one.answer), one.answer]:
            if word in COLORS:
                scene["color"] = word
            elif word in SHAPES:
                scene["shape"] = word
    return {picture: Scene(**scene) for picture, scene in sorted(known.items()) if len(scene) == 2}


def _words(question: str, answer: str) -> list[str]:
    """The colors and shapes of a question that its answer makes true of the picture."""
    denied = re.search(r"\b(no|not)\b", question) is not None
    holds = question.startswith("what") or (answer == "yes") != denied
    return [word for word in re.findall(r"\w+", question) if word in COLORS or word in SHAPES] if holds else []


def captions(shown: Mapping[int, Scene]) -> Iterator[dict[str, str]]:
    """Every sentence of each picture; what its {thing} and {other} are goes round from picture to picture."""
    for picture, scene in shown.items():
        row = {"image": f"train/{picture}.png", "split": split(picture)}
        things = [f"{scene.color} shape", scene.shape, f"{scene.color} {scene.shape}"]
        others = [f"{color} shape" for color in COLORS if color != scene.color]
        others += [shape for shape in SHAPES if shape != scene.shape] * 2
        for nth, text in enumerate(CAPTIONS):
            thing, other = things[(picture + nth) % len(things)], others[(picture + nth) % len(others)]
            yield row | {"caption": text.format(**scene._asdict(), thing=thing, other=other), "language": "en"}
        for text in CAPTIONS_ZH:
            said = text.format(color=COLORS[scene.color], shape=SHAPES[scene.shape])
            yield row | {"caption": said, "language": "zh"}


def _package() -> Path:
    found = find_spec("easy_vqa")  # not imported: only its files are wanted
    if found is None or found.origin is None:
        raise SystemExit('easy-vqa is not installed; `pip install "polymodal[examples]"` brings it')
    return Path(found.origin).parent


def _questions(file: Path) -> list[Question]:
    return [Question(*row) for row in json.loads(file.read_text(encoding="utf-8"))]


def _write(file: Path, rows: Iterable[Mapping[str, str]]) -> int:
    listed = list(rows)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(listed[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)
    return len(listed)


if __name__ == "__main__":
    main()
