"""`evaluate` on a small real table with a small real model: the numbers, what is skipped, what is refused."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.data.manifest import Manifest
from polymodal.engine import Engine
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.evaluate import Report, evaluate
from tests import tiny
from tests.evaluate import small


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return small.table(tmp_path)


def test_retrieval_is_what_a_plain_loop_over_the_vectors_gives(table: Path) -> None:
    engine, rows = small.engine(), [row for row in small.read(table) if row["split"] == "test"]
    names = sorted({row["image"] for row in rows})
    images = dict(zip(names, engine.embed(images=names, root=table.parent), strict=True))
    texts = dict(zip([r["caption"] for r in rows], engine.embed(texts=[r["caption"] for r in rows]), strict=True))
    own = {row["caption"]: row["image"] for row in rows}
    to_text, to_image = [], []
    for name in names:
        best = max(float(images[name] @ texts[caption]) for caption in texts if own[caption] == name)
        wrong = [float(images[name] @ texts[caption]) for caption in texts if own[caption] != name]
        to_text.append(1 + sum(score >= best for score in wrong))
    for caption in texts:
        score = float(images[own[caption]] @ texts[caption])
        to_image.append(1 + sum(float(images[n] @ texts[caption]) >= score for n in names if n != own[caption]))

    report = evaluate(engine, table, split="test", tasks=["retrieval"], k=(1, 3))
    ways = report.data["tasks"]["retrieval"]
    assert (
        (ways["image_to_text"]["queries"], ways["image_to_text"]["candidates"]) == (len(names), len(texts)) == (8, 16)
    )
    assert report.metrics["retrieval/image_to_text/R@3"] == pytest.approx(np.mean(np.array(to_text) <= 3))
    assert report.metrics["retrieval/image_to_text/mean_rank"] == pytest.approx(np.mean(to_text))
    assert report.metrics["retrieval/text_to_image/median_rank"] == pytest.approx(np.median(to_image))
    assert report.metrics["retrieval/text_to_image/MRR"] == pytest.approx(np.mean(1 / np.array(to_image)))


def test_zero_shot_counts_what_classify_answers(table: Path) -> None:
    engine = small.engine()
    report = evaluate(engine, table, split="test", tasks=["zero-shot"], label="颜色")
    right = 0
    rows = {row["image"]: row["颜色"] for row in small.read(table) if row["split"] == "test"}
    for name, label in rows.items():
        (first, *_) = engine.classify(str(table.parent / name), sorted(set(rows.values())))
        right += first.label == label
    assert report.metrics["zero-shot/accuracy"] == right / 8
    assert "一张{}的照片" in report.data["tasks"]["zero-shot"]["templates"]


def test_all_tasks_are_done_where_the_table_allows(table: Path) -> None:
    report = evaluate(small.engine(), table, split="test", label="color", by="color")
    assert list(report.data["tasks"]) == ["retrieval", "zero-shot", "probe", "knn"]
    assert report.data["skipped"] == []
    probe = report.data["tasks"]["probe"]
    assert (probe["rows"], probe["train_rows"]) == (8, 16)  # val is learned from too, once C is chosen
    assert probe["metrics"]["accuracy"]["chance"] == 0.25
    by = report.data["tasks"]["retrieval"]["image_to_text"]["by"]
    assert {name: part["queries"] for name, part in by.items()} == {"blue": 2, "gray": 2, "green": 2, "red": 2}


def test_val_is_not_learned_from_when_it_is_what_is_measured(table: Path) -> None:
    report = evaluate(small.engine(), table, split="val", tasks=["probe"], label="color")
    assert (report.data["tasks"]["probe"]["rows"], report.data["tasks"]["probe"]["train_rows"]) == (4, 12)


def test_what_was_not_measured_says_why(table: Path) -> None:
    report = evaluate(small.engine(), table)
    assert list(report.data["tasks"]) == ["retrieval"]
    reasons = {one["task"]: one["reason"] for one in report.data["skipped"]}
    assert reasons.keys() == {"zero-shot", "probe", "knn"}
    assert (
        "several columns hold categories (color, 颜色); name the one to classify by with label=COLUMN"
        in (reasons["zero-shot"])
    )


def test_the_order_of_rows_changes_nothing(table: Path) -> None:
    rows = small.read(table)
    random.Random(3).shuffle(rows)
    shuffled = small.write(table.with_name("shuffled.csv"), rows)
    plain, other = (
        evaluate(small.engine(), one, split="test", label="color", tasks=["retrieval", "zero-shot", "knn"]).metrics
        for one in (table, shuffled)
    )
    assert plain == pytest.approx(other, rel=1e-5)


def test_a_seed_repeats_and_another_draws_other_candidates(table: Path) -> None:
    options = {"split": "test", "label": "color", "candidates": 5}
    first, again, other = (evaluate(small.engine(), table, seed=seed, **options) for seed in (0, 0, 1))  # type: ignore[arg-type]
    assert first.data == again.data
    assert first.pictures == again.pictures
    curves = [report.data["tasks"]["retrieval"]["text_to_image"]["curve"] for report in (first, other)]
    assert curves[0] != curves[1]


def test_candidates_are_filled_up_from_other_rows(table: Path) -> None:
    report = evaluate(small.engine(), table, split="test", tasks=["retrieval"], candidates=20)
    retrieval = report.data["tasks"]["retrieval"]
    assert retrieval["image_to_text"]["candidates"] == retrieval["text_to_image"]["candidates"] == 20
    assert retrieval["image_to_text"]["queries"] == 8
    chance = retrieval["image_to_text"]["metrics"]["R@1"]["chance"]
    assert chance == pytest.approx(2 / 20)  # two captions each


def test_rows_that_share_a_text_are_one_candidate(tmp_path: Path) -> None:
    small.table(tmp_path, 6)
    rows = [{"image": f"{n}.png", "name": "cat" if n < 4 else f"dog {n}"} for n in range(6)]
    report = evaluate(small.engine(), small.write(tmp_path / "names.csv", rows), text="name", tasks=["retrieval"])
    retrieval = report.data["tasks"]["retrieval"]
    assert (retrieval["image_to_text"]["queries"], retrieval["image_to_text"]["candidates"]) == (6, 3)
    assert (retrieval["text_to_image"]["queries"], retrieval["text_to_image"]["candidates"]) == (3, 6)


def test_excluded_rows_are_nowhere(table: Path) -> None:
    report = evaluate(small.engine(), table, split="test", label="color", exclude={"color": ["gray"]}, candidates=12)
    assert report.data["rows"]["chosen"] == 12
    zero_shot = report.data["tasks"]["zero-shot"]
    assert (zero_shot["classes"], zero_shot["rows"]) == (3, 6)  # rows that only fill up are not classified
    assert report.data["tasks"]["probe"]["train_rows"] == 12


def test_rows_left_out_are_named(table: Path) -> None:
    (table.parent / "4.png").write_bytes(b"no picture")
    rows = small.read(table)
    rows[10]["caption"] = " "  # picture 5 keeps its other caption
    report = evaluate(small.engine(), small.write(table, rows), split="test", tasks=["retrieval"])
    left_out = report.data["rows"]["left_out"]
    assert [(one["row"], one["column"]) for one in left_out] == [(9, "image"), (10, "image"), (11, "caption")]
    assert "4.png" in left_out[0]["reason"]
    assert "is not a picture" in left_out[0]["reason"]
    assert "empty" in left_out[2]["reason"]
    assert report.data["tasks"]["retrieval"]["image_to_text"]["queries"] == 7


def test_k_beyond_the_candidates_is_left_out_and_said(table: Path) -> None:
    report = evaluate(small.engine(), table, exclude={"split": ["train", "val"]}, tasks=["retrieval"])
    assert "R@10" not in report.data["tasks"]["retrieval"]["text_to_image"]["metrics"]
    assert report.data["notes"] == ["text_to_image: R@10 left out, there are 8 candidates only"]


def test_the_module_can_be_called_however_it_was_imported(table: Path) -> None:
    assert sys.modules["polymodal.evaluate"] is vars(pm)["evaluate"]  # the import system has put it there
    report = pm.evaluate(
        small.engine(), Manifest.read(table), split="test", tasks="retrieval", out=table.parent / "out"
    )
    assert isinstance(report, Report)
    assert (table.parent / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "tset"}, DataError, 'no split is named "tset"; did you mean "test"'),
        ({"label": "colour"}, DataError, 'no column is named "colour"; did you mean "color"'),
        ({"by": "nothing"}, DataError, 'no column is named "nothing"'),
        ({"by": "caption"}, ConfigError, 'by "caption" has 48 values, wanted 40 at most'),
        ({"exclude": {"color": ["grey"]}}, ConfigError, 'exclude color="grey": no row has it; did you mean "gray"'),
        ({"exclude": {"split": ["train", "val", "test"]}}, DataError, "none of 48 rows is left"),
        ({"tasks": ["retreival"]}, ConfigError, 'no task is named "retreival"; did you mean "retrieval"'),
        ({"tasks": []}, ConfigError, "wanted one or more of retrieval, zero-shot, probe, knn, got none"),
        ({"tasks": ["zero-shot"]}, ConfigError, "several columns hold categories"),
        ({"tasks": ["probe"], "label": "color"}, ConfigError, "learn from the split train: test on another"),
        ({"tasks": ["zero-shot"], "label": "color", "exclude": {"color": ["red", "blue", "gray"]}}, DataError,
         "wanted two classes or more, got 1: green"),
        ({"candidates": 1}, ConfigError, "candidates must be 2 or more, got 1"),
        ({"k": (0, 1)}, ConfigError, r"k must be 1 or more, got \[0, 1\]"),
        ({"text": "name"}, DataError, 'no column is named "name"'),
        ({"lang": "de", "out": "never"}, ConfigError, 'lang must be one of en, zh, got "de"'),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    table: Path, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(small.engine(), table, **options)  # type: ignore[arg-type]
    assert not Path("never").exists()


def test_a_table_without_pictures_is_refused(tmp_path: Path) -> None:
    table = small.write(tmp_path / "texts.csv", [{"caption": "a long sentence about a dog"}, {"caption": "a cat"}])
    with pytest.raises(DataError, match="no column holds pictures; name it with image=COLUMN"):
        evaluate(small.engine(), table)


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("image,caption\n")
    with pytest.raises(DataError, match="has no row that can be read"):
        evaluate(small.engine(), tmp_path / "empty.csv")


def test_a_table_whose_pictures_cannot_be_read_is_refused(table: Path) -> None:
    for picture in table.parent.glob("*.png"):
        picture.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 48 pictures can be read, the first because: .*0\.png.*is empty"):
        evaluate(small.engine(), table)


def test_a_model_that_gives_no_numbers_is_refused(table: Path) -> None:
    model = tiny.clip()
    for weight in model.parameters():
        torch.nn.init.constant_(weight, float("nan"))
    broken = Engine(model, tiny.tokenizer(), tiny.preprocess(), name="broken", device="cpu")
    with pytest.raises(ArtifactError, match="not numbers"):
        evaluate(broken, table, tasks=["retrieval"])
