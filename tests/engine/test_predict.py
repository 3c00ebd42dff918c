"""A model of rows loaded for use: answers of every task, tags of words, files, single rows, what is refused."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import polymodal as pm
from polymodal import artifact
from polymodal.data.manifest import Manifest
from polymodal.encoders import RecordConfig
from polymodal.engine import Predictor
from polymodal.engine.answers import read, read_tags
from polymodal.engine.predictions import write_predictions
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.features import CategoryColumn, Features, ImageInput, NumberColumn, RecordInput, Target, TextInput
from polymodal.fusion.late import LateConfig
from polymodal.models.heads import HeadsConfig, LinearHead, TokenLinearHead
from polymodal.models.multimodal import MultimodalConfig
from polymodal.preprocess import TextPreprocess
from tests import tiny

TARGETS = {
    "price": Target(columns=("price",), task="regression", mean=100.0, std=10.0),
    "city": Target(columns=("city",), task="multiclass", classes=("北京", "Oslo", "Rome")),
    "defect": Target(columns=("defect",), task="binary", classes=("no", "yes"), temperature=2.0),
    "rooms": Target(columns=("rooms",), task="multilabel", classes=("bath", "garden")),
    "names": Target(columns=("names",), task="tokens", classes=("O", "B-PER", "B-LOC"), text="notes"),
}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return untrained()


def untrained() -> Predictor:
    """A model of a picture, a text and a record, with a target of almost every task."""
    features = Features(
        inputs={
            "photo": ImageInput(column="photo", preprocess=tiny.preprocess().image),
            "notes": TextInput(columns=("notes",), preprocess=TextPreprocess(max_length=12)),
            "record": RecordInput(
                numbers=(NumberColumn(name="size", mean=80, std=20),),
                categories=(CategoryColumn(name="street", values=("东街", "west")),),
            ),
        },
        targets=TARGETS,
    )
    heads: dict[str, Any] = {
        name: TokenLinearHead(outputs=3, input="notes") if name == "names" else LinearHead(outputs=target.outputs)
        for name, target in TARGETS.items()
    }
    torch.manual_seed(3)
    model = MultimodalConfig(
        encoders={
            "photo": tiny.vit_config(),
            "notes": tiny.text_config(),
            "record": RecordConfig(numbers=1, categories=(4,), width=16, layers=1, heads=2),
        },
        fusion=LateConfig(weights="concat", width=16),
        heads=HeadsConfig(targets=heads),
    ).build()
    return Predictor(model, tiny.tokenizer(), features, device="cpu")


def rows() -> list[dict[str, Any]]:
    draw = np.random.default_rng(2)
    picture = Image.fromarray(draw.integers(256, size=(20, 24, 3), dtype=np.uint8))
    return [
        {"photo": picture, "notes": ["a", "dog", "on", "the", "beach"], "size": 75, "street": "东街"},
        {"notes": "一只狗 in 北京", "size": "90"},
        {"photo": picture, "street": "nowhere"},
        {},
    ]


def test_every_target_of_every_row_whatever_a_row_lacks(predictor: Predictor) -> None:
    found = predictor.predict(rows())
    assert found.rows.tolist() == [1, 2, 3, 4]
    assert found.faults == []
    assert found.notes == ('street: 1 rows have a value unseen in training, as "nowhere"',)
    for answers in found.predictions:
        assert answers.keys() == TARGETS.keys()
        city = answers["city"]
        assert city.probabilities is not None
        assert city.probability == max(city.probabilities.values()) == city.probabilities[city.value]
        assert sum(city.probabilities.values()) == pytest.approx(1)
        rooms = answers["rooms"].probabilities
        assert rooms is not None
        assert answers["rooms"].value == [name for name, share in rooms.items() if share > 0.5]


def test_rows_alone_are_answered_as_in_company_and_in_any_batch(predictor: Predictor) -> None:
    together = predictor.predict(rows()).predictions
    alone = [predictor.predict([row]).predictions[0] for row in rows()[:3]]
    for others in (alone, predictor.predict(rows(), batch_size=3).predictions):
        for one, other in zip(others, together, strict=False):
            assert one["price"].value == pytest.approx(other["price"].value, rel=1e-5)
            assert one["defect"].probability == pytest.approx(other["defect"].probability, abs=1e-5)
            assert one["names"].value == other["names"].value


def test_several_threads_get_the_answers_of_one(predictor: Predictor) -> None:
    alone = predictor.predict(rows()).predictions
    with ThreadPoolExecutor(6) as pool:
        for answer in pool.map(lambda turn: predictor.predict(rows(), batch_size=1 + turn % 4).predictions, range(24)):
            for one, other in zip(answer, alone, strict=True):
                assert one["price"].value == pytest.approx(other["price"].value, rel=1e-5)
                assert one["names"].value == other["names"].value


def test_what_is_seen_is_what_a_model_says_with_its_labels(predictor: Predictor) -> None:
    lines = [row | {"price": 120, "city": "Oslo" if row else None, "defect": "maybe"} for row in rows()]
    given = predictor.rows(lines, with_targets=True)
    seen = predictor.see(given, batch_size=3)
    outputs = predictor.outputs(given)
    for name in ("price", "city", "defect", "rooms"):
        torch.testing.assert_close(seen.outputs[name], outputs[name])
    assert seen.outputs["names"].shape == outputs["names"].shape == (4, int(seen.targets["names"].shape[1]), 3)
    assert seen.targets["price"].tolist() == [2.0] * 4
    assert seen.known["city"].tolist() == [True, True, True, False]
    assert seen.known["defect"].tolist() == [False] * 4
    assert {name: there.tolist() for name, there in seen.present.items()} == {
        "photo": [True, False, True, False],
        "notes": [True, True, False, False],
        "record": [True, True, True, False],
    }
    assert predictor.outputs(given, only=["notes"])["price"][2:].unique().numel() == 1  # neither has notes


# ---------------------------------------------------------------------------------------------------------------------
# From logits to answers


def test_numbers_are_in_their_own_units() -> None:
    assert read(TARGETS["price"], torch.tensor([[0.0], [-2.5]])) == [
        (100.0, None, None, None),
        (75.0, None, None, None),
    ]


def test_a_temperature_moves_the_probability_and_not_the_answer() -> None:
    (one,) = read(TARGETS["defect"], torch.tensor([[3.0]]))
    assert one.value == "yes"
    assert one.probability == pytest.approx(1 / (1 + np.exp(-1.5)))
    assert one.to_dict() == {"value": "yes", "probability": one.probability}


def test_ordered_classes_are_decided_by_their_thresholds_as_in_the_report() -> None:
    target = Target(columns=("a",), task="ordinal", classes=("low", "mid", "high"))
    (one,) = read(target, torch.tensor([[0.3, -0.2]]))  # shares 0.43, 0.12, 0.45: the median is mid
    assert one.value == "mid"
    assert one.probability == pytest.approx(1 / (1 + np.exp(-0.3)) - 1 / (1 + np.exp(0.2)))


def tags(cell: Any, classes: list[int]) -> Any:
    """What `read_tags` makes of a cell when the pieces of its text have these classes."""
    logits = torch.nn.functional.one_hot(torch.tensor([classes]), 3).float()
    (one,) = read_tags(TARGETS["names"], logits, [cell], tiny.tokenizer())
    return one


def test_a_tag_for_each_word_is_that_of_its_first_piece() -> None:
    words = ["two", "cats", "sleep"]
    text = "two cats sleep"
    pieces = tiny.tokenizer().backend.encode(text).offsets
    starts = [text.index(word) for word in words]
    classes = [next((n % 3 for n, start in enumerate(starts) if begin <= start < end), 0) for begin, end in pieces]
    assert tags(words, classes).value == ["O", "B-PER", "B-LOC"]
    assert tags(json.dumps(words), classes).value == ["O", "B-PER", "B-LOC"]
    assert tags(text, classes) == (["O", "B-PER", "B-LOC"], None, None, ("two", "cats", "sleep"))


def test_chinese_characters_are_words_of_a_text_and_cut_words_have_no_tag() -> None:
    found = tags("一只狗 dog", [1] * 40)
    assert found.words == ("一", "只", "狗", "dog")
    assert found.value == ["B-PER", None, None, "B-PER"]  # the tokenizer has one piece for all three
    assert tags("一只狗 dog", [0, 2]).value == ["B-LOC", None, None, None]
    cells: list[Any] = [None, "", "  ", [], "[]"]
    for nothing in cells:
        assert tags(nothing, [0]).value == []


# ---------------------------------------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_three_formats_say_the_same(predictor: Predictor, tmp_path: Path, probabilities: bool) -> None:
    given = predictor.rows(rows())
    expected = predictor.predict(rows()).predictions
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        done = write_predictions(predictor, given, tmp_path / name, probabilities=probabilities, batch_size=3)
        assert (done.count, done.faults, done.faults_file) == (4, [], None)
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    plain = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text("utf-8").splitlines()]
    table = pq.read_table(tmp_path / "a.parquet").to_pylist(maps_as_pydicts="strict")
    for number, (answers, line, one, row) in enumerate(zip(expected, lines, plain, table, strict=True), 1):
        assert int(line["row"]) == one["row"] == row["row"] == number
        for value in (float(line["price"]), one["price"]["value"], row["price"]):
            assert value == pytest.approx(answers["price"].value, rel=1e-5)
        assert line["city"] == one["city"]["value"] == row["city"] == answers["city"].value
        assert float(line["city_probability"]) == pytest.approx(row["city_probability"], rel=1e-5)
        assert json.loads(line["rooms"]) == one["rooms"]["value"] == row["rooms"] == answers["rooms"].value
        assert json.loads(line["names"]) == one["names"]["value"] == row["names"]
        assert one["names"]["words"] == row["names_words"] == list(answers["names"].words or ())
        assert (
            ("city_probabilities" in row) == ("probabilities" in one["city"]) == ("city=北京" in line) == probabilities
        )
        if probabilities:
            assert float(line["rooms=bath"]) == pytest.approx(row["rooms_probabilities"]["bath"], rel=1e-5)
            assert one["city"]["probabilities"] == pytest.approx(answers["city"].probabilities, abs=1e-5)


def test_cells_and_rows_that_cannot_be_read_are_written_beside(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "a.csv").write_text("photo,size\nbad.png,80\n,ninety\nnone.png,70\n", encoding="utf-8")
    rows = predictor.rows(Manifest.read(tmp_path / "a.csv", image="photo"))
    done = write_predictions(predictor, rows, tmp_path / "out.csv")
    assert [(fault.row, fault.column, fault.severity) for fault in done.faults] == [
        (1, "photo", "error"), (2, "size", "warning"), (3, "photo", "error"),
    ]  # fmt: skip
    assert done.count == 3
    assert done.faults_file is not None
    first = json.loads(done.faults_file.read_text("utf-8").splitlines()[0])
    assert "bad.png: is not a picture" in first["reason"] or "is not a picture" in first["reason"]
    assert any("no column notes" in note for note in done.notes)
    assert not any("price" in note for note in done.notes)  # what is predicted is not missed


@pytest.mark.parametrize(
    ("name", "message"),
    [("a.txt", r"--out .*a\.txt: wanted a name that ends in \.csv, \.jsonl, \.parquet"),
     ("no/a.csv", "there is no folder .*no; make it first")],
)  # fmt: skip
def test_names_that_cannot_be_written(predictor: Predictor, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_predictions(predictor, predictor.rows(rows()), tmp_path / name)


def test_rows_that_the_model_cannot_read_are_refused(predictor: Predictor) -> None:
    with pytest.raises(DataError, match=r'"model" reads photo, notes, size, street; none of them .* \(colour\)'):
        predictor.predict([{"colour": "red"}])
    with pytest.raises(DataError, match="there are no rows"):
        predictor.predict([])


def test_a_model_without_targets_predicts_nothing_and_embeds(predictor: Predictor) -> None:
    bare = Predictor(
        predictor.model, tiny.tokenizer(), predictor.features.model_copy(update={"targets": {}}), device="cpu"
    )
    with pytest.raises(ArtifactError, match='"model" has no targets, it was only pre-trained'):
        bare.predict(rows())
    np.testing.assert_allclose(bare.embed(rows()), predictor.embed(rows()))


def test_words_as_json_are_the_words(predictor: Predictor) -> None:
    words = ["a", "dog", "on", "the", "beach"]
    one, other, text = predictor.predict(
        [{"notes": words}, {"notes": json.dumps(words)}, {"notes": "a dog on the beach"}]
    ).predictions
    assert one == other == text


def test_a_cache_of_vectors_is_not_for_rows(predictor: Predictor, tmp_path: Path) -> None:
    model: Any = predictor.model
    artifact.save(tmp_path / "rows", model=model, tokenizer=predictor.tokenizer, preprocess=predictor.features)
    with pytest.raises(ConfigError, match="predicts from rows: there are no vectors of pictures or texts to keep in a"):
        pm.load(tmp_path / "rows", cache=True)
    assert pm.load(tmp_path / "rows", precision="float32").precision == "float32"
