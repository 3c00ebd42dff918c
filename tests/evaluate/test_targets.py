"""`evaluate` for a model with several inputs, on a small real run: numbers, which rows, the page, what is refused."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal import artifact
from polymodal.data.manifest import Manifest
from polymodal.engine import Predictor, load_predictor
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.evaluate import TargetsReport, evaluate
from polymodal.evaluate.measured import Known, measure
from polymodal.evaluate.targets_report import answer, written_metric
from polymodal.evaluate.targets_words import TARGET_WORDS
from polymodal.features import Target
from tests.engine.test_predict import untrained
from tests.evaluate import homes
from tests.evaluate.test_report import Page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, homes.csv beside it; not to be changed."""
    folder = tmp_path_factory.mktemp("homes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYMODAL_CACHE", str(folder / "cache"))
        return homes.run(folder, 160, 2).folder


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return load_predictor(run)


@pytest.fixture(scope="module")
def table(run: Path) -> Path:
    return run.parent / "homes.csv"


@pytest.fixture(scope="module")
def report(run: Path, table: Path) -> TargetsReport:
    """On the rows that were kept apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYMODAL_CACHE", str(run.parent / "cache"))
        found = evaluate(run, table, by="街区")
    assert isinstance(found, TargetsReport)
    return found


def splits(run: Path) -> dict[int, str]:
    with (run / "rows.csv").open() as lines:
        return {int(line["row"]): line["split"] for line in csv.DictReader(lines)}


def targets(report: Any) -> dict[str, Any]:
    found: dict[str, Any] = report.data["targets"]
    return found


def test_the_numbers_are_those_of_a_plain_loop_over_the_predictions(
    run: Path, table: Path, predictor: Predictor, report: TargetsReport
) -> None:
    with table.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    predicted = predictor.predict(table).predictions
    test = [row - 1 for row, split in splits(run).items() if split == "test"]
    assert 0 < len(test) < 80

    errors = [predicted[row]["price"].value - float(lines[row]["price"]) for row in test]
    assert report.metrics["price/mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-4)
    assert report.metrics["price/rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-4)
    right = [predicted[row]["city"].value == lines[row]["city"] for row in test]
    assert report.metrics["city/accuracy"] == pytest.approx(np.mean(right))
    known = [row for row in test if lines[row]["defect"]]
    assert targets(report)["defect"]["rows"] == len(known) < len(test)
    assert targets(report)["defect"]["rows_without_label"] == len(test) - len(known)
    right = [predicted[row]["defect"].value == lines[row]["defect"] for row in known]
    assert report.metrics["defect/accuracy"] == pytest.approx(np.mean(right))
    right = [predicted[row]["condition"].value == lines[row]["condition"] for row in test]
    assert report.metrics["condition/accuracy"] == pytest.approx(np.mean(right))
    right = [set(predicted[row]["rooms_with"].value) == set(lines[row]["rooms_with"].split("; ")) for row in test]
    assert report.metrics["rooms_with/exact_match"] == pytest.approx(np.mean(right))


def test_every_number_stands_beside_its_interval_and_what_is_reached_without_looking(report: TargetsReport) -> None:
    found = targets(report)
    for result in found.values():
        first = next(iter(result["metrics"]))
        assert first == result["main"]
        low, value, high = (result["metrics"][first][key] for key in ("low", "value", "high"))
        assert low <= value <= high
    assert found["defect"]["metrics"]["auroc"]["baseline"] == 0.5
    assert found["price"]["metrics"]["r2"]["baseline"] == pytest.approx(0, abs=1e-6)
    assert found["condition"]["metrics"]["kappa"]["baseline"] == pytest.approx(0)
    cities = [sum(row) for row in found["city"]["confusion"]["counts"]]
    assert found["city"]["metrics"]["accuracy"]["baseline"] == max(cities) / sum(cities)


def test_rows_that_were_kept_apart_are_taken_and_others_are_warned_of(run: Path, table: Path) -> None:
    counts = {name: list(splits(run).values()).count(name) for name in ("train", "val", "test")}
    kept = evaluate(run, table).data
    assert kept["rows"] == {"chosen": counts["test"], "which": "the rows that were kept apart from training"}
    assert kept["warnings"] == []
    val = evaluate(run, table, split="val").data
    assert val["rows"]["chosen"] == counts["val"]
    assert "these rows chose the best checkpoint" in val["warnings"][0]
    for folder in (run, run / "artifact"):
        whole = evaluate(folder, table, split="all").data
        assert whole["rows"]["chosen"] == 160
        assert f"{counts['train']} of these 160 rows were trained on" in whole["warnings"][0]


def test_of_another_table_all_rows_are_taken(run: Path, tmp_path: Path) -> None:
    other = homes.write(tmp_path / "others.csv", homes.rows(30, seed=3))
    data = evaluate(run, other, by="街区", exclude={"condition": ["old"]}).data
    assert data["rows"]["which"] == "all rows of the table"
    assert 0 < data["rows"]["chosen"] < 30
    assert data["warnings"] == []
    assert {fault["column"] for fault in data["faults"]} == {"photo"}  # the pictures are elsewhere
    by = data["targets"]["price"]["by"]
    assert by.keys() == {"东城", "西城", "south"}
    assert sum(part["rows"] for part in by.values()) == data["rows"]["chosen"]


def test_an_artifact_elsewhere_warns_of_a_table_of_the_name_that_it_was_trained_on(
    run: Path, table: Path, predictor: Predictor, tmp_path: Path
) -> None:
    copy = artifact.save(
        tmp_path / "copy",
        model=predictor.model,
        tokenizer=predictor.tokenizer,
        preprocess=predictor.features,
        recipe={"data": {"table": "elsewhere/homes.csv"}},
    )
    data = evaluate(copy, table).data
    assert data["rows"]["chosen"] == 160
    assert "the model was trained on a table of this name (elsewhere/homes.csv)" in data["warnings"][0]


def test_a_table_that_has_changed_since_is_said(run: Path, table: Path, tmp_path: Path) -> None:
    state = json.loads((run / "table.json").read_text()) | {"stamp": "another"}
    for name in ("rows.csv", "recipe.yaml"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    (tmp_path / "artifact").symlink_to(run / "artifact")
    (tmp_path / "table.json").write_text(json.dumps(state))
    assert "the table has changed since training" in evaluate(tmp_path, table).data["warnings"][0]
    (tmp_path / "rows.csv").write_text("nonsense")
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(DataError, match=r"rows\.csv and table\.json cannot be read"):
        evaluate(tmp_path, table)


def test_worst_misses_show_the_row_as_the_model_saw_it(table: Path, report: TargetsReport) -> None:
    misses = targets(report)["price"]["misses"]
    off = [abs(miss["wanted"] - miss["got"]) for miss in misses]
    assert off == sorted(off, reverse=True)
    assert len(misses) == 12
    with table.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    for miss in misses:
        assert miss["wanted"] == pytest.approx(float(lines[miss["row"] - 1]["price"]), rel=1e-5)
        seen = report.data["shown_rows"][str(miss["row"])]
        assert seen["record"]["街区"] == lines[miss["row"] - 1]["街区"]
        assert (seen["photo"] is None) == (lines[miss["row"] - 1]["photo"] == "")
        assert (f"{miss['row']}/photo" in report.pictures) == (seen["photo"] is not None)
    for miss in targets(report)["city"]["misses"]:
        assert miss["wanted"] == lines[miss["row"] - 1]["city"] != miss["got"]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page_needs_no_other_file_and_says_every_number(report: TargetsReport, lang: str, tmp_path: Path) -> None:
    report.write(tmp_path, lang)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert f'<html lang="{lang}">' in page
    read = Page(page)
    assert not {"script", "link", "iframe"} & set(read.tags)
    assert all(re.match(r"data:image/webp;base64,|#", address) for address in read.addresses)
    for (name,), result in report.parts():
        assert name in read.words
        for metric, measured in result["metrics"].items():
            assert written_metric(measured["value"], metric) in read.words
            assert metric not in TARGET_WORDS or TARGET_WORDS[metric][lang == "zh"] in read.words
    assert read.tags.count("svg") == 2 + 3 * 3 + 1  # a number; classes with curves; ordered ones
    assert json.loads((tmp_path / "report.json").read_text("utf-8")) == report.data


def test_words_of_a_page_cannot_be_html(run: Path, tmp_path: Path) -> None:
    lines = homes.rows(30, seed=3)
    for line in lines:
        line["notes"] = "<script>alert(1)</script>"
    page = evaluate(run, homes.write(tmp_path / "a.csv", lines)).to_html()
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_one_class_only_is_said_and_no_number_is_made_up(run: Path, tmp_path: Path) -> None:
    lines = [line | {"defect": "no", "city": ""} for line in homes.rows(30, seed=3)]
    report = evaluate(run, homes.write(tmp_path / "a.csv", lines))
    assert targets(report)["defect"]["metrics"]["auroc"]["value"] is None
    assert any(
        note.startswith("defect: auroc") and 'n/a, all 30 rows are "no"' in note for note in report.data["notes"]
    )
    assert "city: not measured, no row of 30 has a value that the model knows" in report.data["notes"]
    assert "city" not in targets(report)
    assert "–" in report.to_html()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ("size", "notes"),
            "to measure, the true values are needed: no column is named price, defect, condition, city",
        ),
        (("price", "defect"), "none of them is among the columns (price, defect)"),
    ],
)
def test_a_table_without_what_is_read_or_compared_is_refused(
    run: Path, tmp_path: Path, columns: tuple[str, ...], message: str
) -> None:
    lines = [{name: line[name] for name in columns} for line in homes.rows(10)]
    with pytest.raises(DataError, match=re.escape(message)):
        evaluate(run, homes.write(tmp_path / "a.csv", lines))


def test_no_label_at_all_is_refused(run: Path, tmp_path: Path) -> None:
    lines = [line | dict.fromkeys(homes.TARGETS, "") for line in homes.rows(10)]
    with pytest.raises(DataError, match=r"price: not measured, no row of 10 .* there is nothing to compare with"):
        evaluate(run, homes.write(tmp_path / "a.csv", lines))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "tset"}, DataError, 'no column says what is in split "tset"; did you mean "test"'),
        ({"by": "size", "split": "all"}, ConfigError, r'by "size" has \d+ values, wanted 40 at most'),
        ({"by": "nothing"}, DataError, 'no column is named "nothing"'),
        ({"lang": "de"}, ConfigError, 'lang must be one of en, zh, got "de"'),
        ({"label": "city", "k": (1,)}, ConfigError, "label, k: for models of pictures and texts; .* predicts price, "),
        ({"exclude": {"city": ["Paris"]}}, ConfigError, 'exclude city="Paris": no row has it'),
        ({"exclude": {"city": ["Oslo", "北京", "上海"]}}, DataError, "none of 160 rows is left by split=test"),
    ],
)
def test_what_cannot_be_is_refused(
    run: Path, table: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(run, table, **options)


def test_a_model_that_was_only_pretrained_is_refused(predictor: Predictor, table: Path) -> None:
    bare = Predictor(predictor.model, predictor.tokenizer, predictor.features.model_copy(update={"targets": {}}))
    for measuring in (evaluate, pm.ablate):
        with pytest.raises(ArtifactError, match='"model" has no targets, it was only pre-trained; fine-tune it'):
            measuring(bare, table)


# ---------------------------------------------------------------------------------------------------------------------
# One target, by hand


def test_calibration_before_and_after_the_temperature() -> None:
    target = Target(columns=("a",), task="binary", classes=("no", "yes"), temperature=2.0)
    logits = torch.tensor([[4.0], [4.0], [4.0], [-4.0]])
    found = measure(Known(target, logits, torch.tensor([1.0, 1, 0, 0]), torch.ones(4, dtype=torch.bool)), 0)
    sure, calm = 1 / (1 + np.exp(-4)), 1 / (1 + np.exp(-2))
    calibration = found["calibration"]
    assert calibration["temperature"] == 2
    assert calibration["before"]["ece"] == pytest.approx(sure - 0.75)
    assert calibration["after"]["ece"] == pytest.approx(calm - 0.75)
    assert found["metrics"]["ece"]["value"] == pytest.approx(calm - 0.75)
    assert calibration["after"]["nll"] == pytest.approx(-(3 * np.log(calm) + np.log(1 - calm)) / 4)


def test_soft_answers_count_by_degree() -> None:
    target = Target(columns=("a",), task="soft", classes=("yes", "no"))
    scores = torch.tensor([[1.0, 0.3], [0.3, 0.9]])
    found = measure(Known(target, torch.tensor([[2.0, 0.0], [2.0, 0.0]]), scores, torch.ones(2, 2).bool()), 0)
    assert found["metrics"]["vqa_accuracy"]["value"] == pytest.approx(0.65)
    assert found["best"] == pytest.approx(0.95)
    assert found["calibration"] is None


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        (0.7312, "accuracy", "73.1 %"), (0.7312, "auroc", "0.731"), (None, "auroc", "–"), (-1e-9, "r2", "0.000"),
        (24801.7, "rmse", "24,802"), (0.0123456, "mae", "0.01235"), (1.5e-9, "mae", "1.5e-09"), (3.0, "mae", "3"),
    ],
)  # fmt: skip
def test_metrics_as_people_read_them(value: float | None, name: str, expected: str) -> None:
    assert written_metric(value, name) == expected


def test_answers_as_people_read_them() -> None:
    assert answer(["bath", "花园"]) == "bath, 花园"
    assert answer({"yes": 1.0, "no": 0.3}) == "yes (1), no (0.3)"
    assert answer(144391.2) == "144,391"


def test_every_word_of_the_page_is_used_and_has_both_languages() -> None:
    source = "".join(
        (Path("src/polymodal/evaluate/templates") / name).read_text("utf-8") for name in ("targets.html", "parts.html")
    )
    tasks = {"binary", "multiclass", "multilabel", "regression", "ordinal", "soft"}
    metrics = {name for name in TARGET_WORDS if name in (
        "auroc", "average_precision", "balanced_accuracy", "f1", "f1_micro", "recall", "specificity", "nll", "brier",
        "ece", "exact_match", "rmse", "mae", "r2", "kappa", "vqa_accuracy",
    )}  # fmt: skip
    named = tasks | metrics | {"positives", "entities"}
    assert not {key for key in TARGET_WORDS if key not in named and not re.search(rf'word\.{key}\b|"{key}"', source)}
    assert all(re.search(r"[\u4e00-\u9fff]|^[A-Z0-9]+$", zh) for _, zh in TARGET_WORDS.values())


def test_the_manifest_may_be_read_already(run: Path, table: Path, report: TargetsReport) -> None:
    assert evaluate(run, Manifest.read(table)).metrics == report.metrics


def test_wrong_words_are_shown_in_their_sentence(tmp_path: Path) -> None:
    words = [["a", "dog", "on", "the", "beach"], ["two", "cats"], ["Ann", "sleeps"]]
    tags = [["O", "B-PER", "O", "O", "B-LOC"], ["O", "O"], ["B-PER", "O"]]
    with (tmp_path / "names.jsonl").open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"notes": one, "names": two}) + "\n" for one, two in zip(words, tags, strict=True))
    report = evaluate(untrained(), tmp_path / "names.jsonl")
    result = targets(report)["names"]
    assert result["tokens"] > 3
    assert result["metrics"].keys() >= {"f1", "precision", "recall", "accuracy"}
    for miss in result["misses"]:
        assert miss["words"] == words[miss["row"] - 1]
        assert miss["wanted"] == tags[miss["row"] - 1]
        wrong = [one for one, said in zip(miss["wanted"], miss["got"], strict=True) if said not in (None, one)]
        assert wrong
    first = result["misses"][0]
    place = next(n for n, said in enumerate(first["got"]) if said not in (None, first["wanted"][n]))
    assert f"{first['wanted'][place]} → {first['got'][place]}" in Page(report.to_html()).words
