"""Locked encoders run once, and nothing else changes by it."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from polymodal.encoders.resnet import Resnet
from polymodal.errors import ConfigError
from polymodal.features import ImageInput
from polymodal.train import run
from polymodal.train.multimodal import MultimodalJob, prepare_multimodal, read_recipe
from polymodal.train.multimodal.locked import LockedRows, locked_inputs, look_once, looks_shared
from tests.train import toy

SENTENCES = ("a red one", "a much longer sentence about a thing that is not red at all", "blue", "")


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of the picture encoder has looked at so far."""
    looked: list[int] = []
    forward = Resnet.forward

    def counted(self: Resnet, pixels: torch.Tensor) -> Any:
        looked.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(Resnet, "forward", counted)
    return looked


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty rows with a picture (every seventh without), a sentence and two targets, one of them known now and then."""
    folder = tmp_path_factory.mktemp("locked")
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["picture", "said", "size", "kind", "half", "split"])
        for number in range(40):
            file = folder / f"{number}.png"
            toy.draw(file, number)
            picture = "" if number % 7 == 3 else file.name
            half = "" if number % 3 else ("left", "right")[number % 2]
            row = [picture, SENTENCES[number % 4], number, ("p", "q", "r")[number % 3], half]
            writer.writerow([*row, "val" if number >= 32 else "train"])
    return folder / "rows.csv"


def recipe(table: Path, **trainer: Any) -> dict[str, Any]:
    settings = {"epochs": 2, "batch_size": 8, "log_every": 1, "precision": "fp32", "freeze": ["encoders.picture"]}
    return {
        "data": {
            "table": str(table),
            "targets": ["kind", "half"],
            "inputs": {
                "picture": {"kind": "image", "columns": ["picture"], "size": 16},
                "said": {"kind": "text", "columns": ["said"], "max_length": 16},
                "record": {"kind": "record", "columns": ["size"]},
            },
        },
        "model": {
            "kind": "multimodal",
            "encoders": {"picture": {"kind": "resnet", "block": "basic", "layers": [1, 1, 1, 1], "stem": 4}},
            "input_dropout": 0.3,
        },
        "tokenizer": {"kind": "learned", "vocab_size": 512},
        "trainer": settings | trainer,
    }


def planned(recipe: dict[str, Any]) -> MultimodalJob:
    return MultimodalJob(prepare_multimodal(read_recipe(recipe), lambda note: None))  # type: ignore[arg-type]


def test_a_batch_has_what_the_encoder_would_say(table: Path) -> None:
    prepared = planned(recipe(table, freeze=["encoders.picture", "encoders.said"])).prepared
    towers = locked_inputs(prepared.model, prepared.features, prepared.recipe)
    assert list(towers) == ["picture", "said"]
    [rows] = look_once(towers, [prepared.train])
    assert isinstance(rows, LockedRows)
    places = [5, 3, 11, 0]  # 3 has no picture
    batch, plain = rows.batch(places), prepared.train.batch(places)
    assert len(rows) == 32
    assert batch.present["picture"].tolist() == plain.present["picture"].tolist() == [True, False, True, True]
    model = prepared.model.eval()
    with torch.no_grad():
        found = model(prepared.features.normalize(batch.inputs), batch.present)
        wanted = model(prepared.features.normalize(plain.inputs), plain.present)
    for name, head in wanted.predictions.items():
        torch.testing.assert_close(found.predictions[name], head, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.tokens["said"].mask, wanted.tokens["said"].mask)
    assert torch.equal(batch.targets["kind"], plain.targets["kind"])
    assert torch.equal(batch.rows, plain.rows)


@pytest.mark.usefixtures("no_curve")
def test_training_is_the_same_with_one_look_and_with_many(table: Path, tmp_path: Path, looked: list[int]) -> None:
    once = run.fit(recipe(table), out=tmp_path / "once")
    looks = sum(looked)
    looked.clear()
    many = run.fit(recipe(table, cache_locked=False), out=tmp_path / "many")
    # In place of two epochs of all rows, and the rows of validation for temperatures: a few to see how much there is to
    # keep, then every row.
    assert sum(looked) - looks == 2 * 40 + 8 - (8 + 40)
    first, second = (load_file(made.artifact / "model.safetensors") for made in (once, many))
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], rtol=0, atol=1e-5, msg=name)
    assert once.metrics["validation"]["mean"] == pytest.approx(
        many.metrics["validation"]["mean"], abs=1e-4, nan_ok=True
    )


def test_runs_may_share_a_look(table: Path, looked: list[int]) -> None:
    def look(seed: int) -> int:
        prepared = planned(recipe(table, seed=seed)).prepared
        before = sum(looked)
        look_once({"picture": prepared.model.encoders["picture"].eval()}, [prepared.train])
        return sum(looked) - before - 8

    with looks_shared():
        assert look(seed=0) == 32
        assert look(seed=0) == 0
        assert look(seed=1) == 32  # other weights, and other rows to train on
    assert look(seed=0) == 32


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer": {"cache_locked": False}},
        {"trainer": {"freeze": []}},
        {"data": {"augment": {}}},
        {"objectives": [{"kind": "supervised"}, {"kind": "contrastive", "first": "picture", "second": "said"}]},
    ],
)
def test_encoders_run_on_where_they_may_see_something_else(table: Path, changes: dict[str, Any]) -> None:
    asked = recipe(table)
    for key, value in changes.items():
        asked[key] = value if isinstance(value, list) else asked[key] | value
    prepared = planned(asked).prepared
    assert locked_inputs(prepared.model, prepared.features, prepared.recipe) == {}


def test_what_does_not_fit_into_memory_is_said_and_runs_as_always(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("polymodal.train.multimodal.locked.MOST_BYTES", 1000)
    prepared = planned(recipe(table)).prepared
    assert look_once({"picture": prepared.model.encoders["picture"].eval()}, [prepared.train]) == [prepared.train]
    assert (
        "picture: its locked encoder runs in every epoch; what it says of 32 rows is too much"
        in capsys.readouterr().err
    )


def test_a_size_that_is_asked_for_holds_for_released_weights_too(table: Path, tmp_path: Path) -> None:
    made = run.fit(recipe(table, epochs=1), out=tmp_path / "run")
    asked = recipe(table)
    asked["model"] = {"kind": "multimodal", "start": str(made.folder)}
    asked["tokenizer"] = None
    asked["data"]["inputs"]["picture"]["size"] = 24
    job = planned(asked)
    config = job.prepared.features.inputs["picture"]
    assert isinstance(config, ImageInput)
    assert config.preprocess.size == 24
    assert job.recipe.data.inputs is not None
    assert job.recipe.data.inputs["picture"].size == 24
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        planned(recipe(table, freeze=["*"]))


def test_rows_of_one_picture_need_one_look(table: Path, tmp_path: Path, looked: list[int]) -> None:
    """Forty rows that show four pictures, two rows without one: each row gets what its own picture says."""
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    for number, row in enumerate(rows):
        row["picture"] = "" if number in (5, 9) else str(table.parent / f"{(0, 1, 2, 4)[number * 7 % 4]}.png")
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    prepared = planned(recipe(tmp_path / "rows.csv")).prepared
    [once] = look_once({"picture": prepared.model.encoders["picture"].eval()}, [prepared.train])
    assert looked == [8, 6]  # how much there is to keep; then four pictures, and nothing twice
    assert isinstance(once, LockedRows)
    places = list(range(len(prepared.train)))
    batch = prepared.train.batch(places)
    given = {"picture": prepared.features.normalize(batch.inputs)["picture"]}
    tokens, present = prepared.model.eval().encode(given, {"picture": batch.present["picture"]})
    kept = once.batch(places)
    assert kept.present["picture"].tolist() == present["picture"].tolist() == batch.present["picture"].tolist()
    there = present["picture"]
    torch.testing.assert_close(
        kept.inputs["picture"].sequence[there],  # type: ignore[union-attr]
        tokens["picture"].sequence[there],
        rtol=0,
        atol=1e-5,
    )


def grid(table: Path, **trainer: Any) -> dict[str, Any]:
    """Pre-training of a grid of cells whose backbone is locked; what stands on it learns."""
    asked = recipe(table, freeze=["encoders.picture.backbone"], **trainer)
    backbone = {"kind": "resnet", "block": "basic", "layers": [1, 1, 1, 1], "stem": 4, "image_size": 64}
    asked["data"]["inputs"]["picture"]["size"] = 64
    asked["model"]["encoders"]["picture"] = {"kind": "grid_regions", "backbone": backbone, "width": 16, "heads": 2}
    asked["objectives"] = [
        {"kind": "masked_regions", "input": "picture"},
        {"kind": "matching", "first": "picture", "second": "said", "contrast": "none"},
    ]
    return asked


@pytest.mark.usefixtures("no_curve")
def test_a_locked_backbone_finds_the_cells_once(table: Path, tmp_path: Path, looked: list[int]) -> None:
    once = run.fit(grid(table), out=tmp_path / "once")
    looks = sum(looked)
    looked.clear()
    many = run.fit(grid(table, cache_locked=False), out=tmp_path / "many")
    assert looks == 8 + 40  # a few to see how much there is to keep, then every row
    assert sum(looked) > looks + 40
    first, second = (load_file(made.artifact / "model.safetensors") for made in (once, many))
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], rtol=0, atol=1e-4, msg=name)


def test_pixels_that_are_hidden_must_be_seen(table: Path) -> None:
    asked = grid(table)
    asked["objectives"][0] = {"kind": "masked_image", "input": "picture"}
    prepared = planned(asked).prepared
    assert locked_inputs(prepared.model, prepared.features, prepared.recipe) == {}
