"""Ensembles: weights against a search by hand, the artifact against its members, and what is refused."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import polymodal as pm
from polymodal import artifact
from polymodal.compress.ensemble import ensemble
from polymodal.compress.ensemble_spaces import fit_factors
from polymodal.compress.ensemble_tables import fit_weights
from polymodal.compress.held_rows import rows_for
from polymodal.compress.members import Weights
from polymodal.data.manifest import Manifest
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.features import Target
from polymodal.train.build import load_pretrained
from tests import tiny
from tests.compress import homes
from tests.engine import tables as pairs

ROWS = [{"area": 30, "city": "a"}, {"area": 80.5, "city": "b"}, {"area": 55, "city": "other"}, {"city": "b"}]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def said(seed: int, labels: Tensor, skill: float) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    right = torch.nn.functional.one_hot(labels, 3).double()
    return skill * right + 1.5 * torch.randn(len(labels), 3, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("of", ["probabilities", "logits"])
def test_fitted_weights_are_those_that_a_search_finds(of: Any) -> None:
    labels = torch.arange(90) % 3
    target = Target(columns=("y",), task="multiclass", classes=("a", "b", "c"))
    outputs = [said(1, labels, 2.0), said(2, labels, 1.5)]
    (own, other), alone = fit_weights(target, of, outputs, labels, torch.ones(90, dtype=torch.bool))

    def log_loss(share: float) -> float:
        one, two = (each.softmax(-1) for each in outputs)
        if of == "logits":
            mean = (share * outputs[0] + (1 - share) * outputs[1]).softmax(-1)
        else:
            mean = share * one + (1 - share) * two
        return -mean[range(90), labels].log().mean().item()

    best = min(np.linspace(0, 1, 1001), key=log_loss)
    assert own == pytest.approx(best, abs=2e-3)
    assert own + other == pytest.approx(1)
    assert alone == pytest.approx([log_loss(1), log_loss(0)])


def test_a_member_that_knows_nothing_gets_no_weight() -> None:
    labels = torch.arange(60) % 3
    target = Target(columns=("y",), task="multiclass", classes=("a", "b", "c"))
    outputs = [said(1, labels, 9.0), -said(1, labels, 9.0)]
    weights, _ = fit_weights(target, "probabilities", outputs, labels, torch.ones(60, dtype=torch.bool))
    assert weights == (1.0, 0.0)


def test_values_are_weighed_by_their_squared_error() -> None:
    truth = torch.linspace(-1, 1, 50, dtype=torch.float64)
    target = Target(columns=("y",), task="regression")
    outputs = [(truth + 1)[:, None], (truth - 0.5)[:, None]]  # a third and two thirds are exact
    weights, _ = fit_weights(target, "probabilities", outputs, truth, torch.ones(50, dtype=torch.bool))
    assert weights == pytest.approx((1 / 3, 2 / 3), abs=1e-4)


def test_weights_without_a_known_label_are_refused() -> None:
    target = Target(columns=("y",), task="regression")
    with pytest.raises(DataError, match='target "y": no validation row has a value'):
        fit_weights(target, "logits", [torch.zeros(3, 1)] * 2, torch.zeros(3), torch.zeros(3, dtype=torch.bool))


def test_factors_of_cosines_have_less_loss_than_any_member() -> None:
    draw = torch.Generator().manual_seed(3)
    right = torch.eye(40, dtype=torch.float64)
    cosines = [
        (0.3 * right + 0.2 * torch.randn(40, 40, generator=draw, dtype=torch.float64)).clamp(-1, 1) for _ in range(3)
    ]
    factors, alone = fit_factors(cosines, None, [10.0, 20.0, 5.0])
    logits = sum(factor * one for factor, one in zip(factors, cosines, strict=True))
    assert isinstance(logits, Tensor)
    own = torch.arange(40)
    found = (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)) / 2
    assert found.item() < min(alone) - 0.1
    assert all(factor > 0 for factor in factors)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([0.5], "wanted 2 numbers, one for each model, got 1"),
        ([0.5, -1.0], "at least 0 and not all 0, got 0.5, -1"),
        ([0.0, 0.0], "not all 0"),
        ([float("nan"), 1.0], "not all 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(asked: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Weights.of(asked, 2)


def test_weights_are_proportions() -> None:
    assert Weights.of([3, 1], 2).shares == (0.75, 0.25)


# ---------------------------------------------------------------------------------------------------------------------
# Models of a table's rows


def probabilities(folder: Path, name: str) -> list[dict[str, float]]:
    predictions = pm.load(folder).predict(ROWS).predictions
    return [row[name].probabilities for row in predictions]


def test_the_artifact_predicts_the_weighted_mean_of_its_members(tmp_path: Path) -> None:
    hot = homes.features(temperature=2.0, mean=60.0)
    one = homes.saved(tmp_path / "one")
    two = homes.saved(tmp_path / "two", hot, seed=1)
    table = homes.table(tmp_path / "rows.csv")
    done = ensemble([one, two], table, tmp_path / "both", weights=[0.25, 0.75])
    for name in ("defect", "color", "rooms", "state"):
        members = zip(probabilities(one, name), probabilities(two, name), strict=True)
        for whole, (first, second) in zip(probabilities(done.folder, name), members, strict=True):
            wanted = {label: 0.25 * first[label] + 0.75 * second[label] for label in first}
            assert whole == pytest.approx(wanted, abs=1e-6)
    values = [[row["price"].value for row in pm.load(folder).predict(ROWS).predictions] for folder in (one, two)]
    found = [row["price"].value for row in pm.load(done.folder).predict(ROWS).predictions]
    assert found == pytest.approx([0.25 * a + 0.75 * b for a, b in zip(*values, strict=True)], rel=1e-5)
    assert set(pm.load(done.folder).features.inputs) == {"record", "record.2"}  # they scale the area otherwise


def test_values_of_different_scales_meet_in_their_own_units(tmp_path: Path) -> None:
    one = homes.saved(tmp_path / "one", homes.features("price"))
    two = homes.saved(tmp_path / "two", homes.features("price", mean=-50.0).model_copy(), seed=1)
    other = homes.features("price").targets["price"].model_copy(update={"mean": 7.0, "std": 3.0})
    three = homes.saved(tmp_path / "three", homes.features("price").model_copy(update={"targets": {"price": other}}), 2)
    done = ensemble([one, two, three], homes.table(tmp_path / "rows.csv"), tmp_path / "all", weights="uniform")
    members = [[row["price"].value for row in pm.load(one).predict(ROWS).predictions] for one in (one, two, three)]
    found = [row["price"].value for row in pm.load(done.folder).predict(ROWS).predictions]
    assert found == pytest.approx(np.mean(members, axis=0).tolist(), rel=1e-5)


@pytest.mark.parametrize("of", ["probabilities", "logits"])
def test_fitted_on_validation_rows_it_is_never_worse_there_than_its_best_member(tmp_path: Path, of: Any) -> None:
    sources = [homes.saved(tmp_path / str(seed), seed=seed) for seed in range(3)]
    table = homes.table(tmp_path / "rows.csv")
    done = ensemble(sources, table, tmp_path / "all", of=of)
    told = done.data
    for name, loss in told["ensemble"]["loss"].items():
        assert loss <= min(member["loss"][name] for member in told["members"]) + 1e-6
        assert sum(member["weights"][name] for member in told["members"]) == pytest.approx(1)
    assert told["rows"] == {"validation": 20, "measured": 10, "which": "rows of split test"}
    assert json.dumps(told)
    assert artifact.verify(done.folder) == []
    # What is told is what `evaluate` finds for the artifact, members of no weight left out or not.
    report = pm.evaluate(done.folder, table, split="test").data["targets"]
    for name, metrics in told["ensemble"]["targets"].items():
        for metric, value in metrics.items():
            assert report[name]["metrics"][metric]["value"] == pytest.approx(value, abs=1e-6)
    assert told["ensemble"]["low"] <= told["ensemble"]["score"] <= told["ensemble"]["high"]


def test_members_of_no_weight_are_left_out_and_named(tmp_path: Path) -> None:
    one, two = homes.saved(tmp_path / "one"), homes.saved(tmp_path / "two", seed=1)
    done = ensemble([one, two], homes.table(tmp_path / "rows.csv"), tmp_path / "all", weights=[0, 1])
    assert f'"{one}" has weight 0 and is left out' in done.data["warnings"]
    found = artifact.load(done.folder)
    assert len(found.config.members) == 1  # type: ignore[union-attr]
    assert probabilities(done.folder, "color") == [pytest.approx(row) for row in probabilities(two, "color")]


def test_without_test_rows_it_says_that_the_numbers_are_too_good(tmp_path: Path) -> None:
    sources = [homes.saved(tmp_path / str(seed), seed=seed) for seed in range(2)]
    done = ensemble(sources, homes.table(tmp_path / "rows.csv", split=False), tmp_path / "all")
    assert done.data["rows"]["which"] == "the validation rows"
    assert any("on new ones the ensemble is a little worse" in warning for warning in done.data["warnings"])


def refused(tmp_path: Path, message: str, *others: Path, **options: Any) -> None:
    one, table = homes.saved(tmp_path / "one"), homes.table(tmp_path / "rows.csv")
    with pytest.raises((ArtifactError, ConfigError, DataError), match=message):
        ensemble([one, *others], options.pop("table", table), tmp_path / "all", **options)
    assert not (tmp_path / "all").exists()


def test_members_that_answer_something_else_are_refused(tmp_path: Path) -> None:
    fewer = homes.saved(tmp_path / "fewer", homes.features("price", "color"))
    refused(tmp_path, 'predicts price, defect, color, rooms, state and ".*fewer" price, color; combine', fewer)
    turned = homes.features()
    color = turned.targets["color"].model_copy(update={"classes": ("red", "green", "blue")})
    turned = turned.model_copy(update={"targets": turned.targets | {"color": color}})
    refused(
        tmp_path,
        r'target "color" has classes blue, green, red in ".*one" and red, green, blue in ".*turned"',
        homes.saved(tmp_path / "turned", turned),
    )


def test_members_of_another_kind_and_ensembles_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, 'one" predict targets and ".*clip" compare pictures', homes.clip(tmp_path / "clip"))
    sources = [homes.saved(tmp_path / str(seed), seed=seed) for seed in range(2)]
    whole = ensemble(sources, homes.table(tmp_path / "rows.csv"), tmp_path / "whole", weights="uniform").folder
    refused(tmp_path, 'whole" is an ensemble itself; name its members instead', whole)
    with pytest.raises(ConfigError, match=r'whole" is an ensemble, which has no training; start from one of its mem'):
        load_pretrained(str(whole))


def test_too_few_members_and_places_that_are_taken_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "wanted two models or more, got 1")
    refused(tmp_path, 'one" is there twice', tmp_path / "one")
    two = homes.saved(tmp_path / "two")
    with pytest.raises(ConfigError, match="is one of the members; choose another folder"):
        ensemble([tmp_path / "one", two], tmp_path / "rows.csv", two)
    refused(tmp_path, 'weights must be fit, uniform, or numbers as 0.5,0.3,0.2, got "best"', two, weights="best")


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def run(folder: Path, table: Path, split_of: dict[int, str]) -> Path:
    """What a run leaves that knows its rows."""
    homes.saved(folder / "artifact")
    with (folder / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("row", "split"), *split_of.items()])
    state = {"file": str(table.resolve()), "stamp": Manifest.read(table).stamp}
    (folder / "table.json").write_text(json.dumps(state), "utf-8")
    (folder / "recipe.yaml").write_text("data: {}\n", "utf-8")
    return folder


def test_rows_that_any_member_was_trained_on_are_left_aside(tmp_path: Path) -> None:
    table = homes.table(tmp_path / "rows.csv", rows=12, split=False)
    every = range(1, 13)
    one = run(tmp_path / "a", table, {row: "val" if row < 5 else "test" if row > 10 else "train" for row in every})
    two = run(tmp_path / "b", table, {row: "val" if row in (3, 4, 9) else "train" for row in every if row != 12})
    found = rows_for([one, two], table)
    assert found.validation.row_numbers.tolist() == [3, 4]
    assert found.measured.row_numbers.tolist() == [12]
    other = run(tmp_path / "c", table, {row: "train" if row < 5 else "val" for row in every if row < 11})
    with pytest.raises(DataError, match="a member was trained on each of its 10 validation rows"):
        rows_for([one, other, two], table)


def test_a_table_whose_splits_have_no_validation_rows_is_refused(tmp_path: Path) -> None:
    table = homes.table(tmp_path / "few.csv", rows=3)  # all train
    refused(tmp_path, "no row is of split val, so there is nothing to choose weights by",
            homes.saved(tmp_path / "two"), table=table)  # fmt: skip
    assert rows_for([tmp_path / "one"], homes.table(tmp_path / "more.csv"), split="test").which == "the validation rows"


# ---------------------------------------------------------------------------------------------------------------------
# Models of pictures and texts


def clips(tmp_path: Path) -> list[Path]:
    torch.manual_seed(8)
    return [homes.clip(tmp_path / "one"), homes.clip(tmp_path / "two", tiny.clip_config(width=5).build().eval())]


def test_spaces_side_by_side_are_one_engine(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    table = pairs.write(tmp_path / "pairs")
    sources = clips(tmp_path)
    done = ensemble(sources, table, tmp_path / "both", weights=[0.25, 0.75])
    pictures, texts = [tmp_path / "pairs" / "0.png", tmp_path / "pairs" / "1.png"], ["a dog", "两只猫", "a man"]
    one, two, both = (pm.load(folder).similarity(pictures, texts) for folder in (*sources, done.folder))
    np.testing.assert_allclose(both, 0.25 * one + 0.75 * two, atol=1e-6)
    assert pm.load(done.folder).classify(pictures[0], ["dog", "cat"])[0].probability > 0.5
    assert [member["weight"] for member in done.data["members"]] == [0.25, 0.75]
    report = pm.evaluate(done.folder, table, tasks=["retrieval"]).data["tasks"]["retrieval"]
    assert done.data["ensemble"]["R@1"]["image_to_text"]["value"] == report["image_to_text"]["metrics"]["R@1"]["value"]


def test_fitted_spaces_have_no_more_loss_than_the_best(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    done = ensemble(clips(tmp_path), pairs.write(tmp_path / "pairs"), tmp_path / "both")
    assert done.data["ensemble"]["loss"] <= min(member["loss"] for member in done.data["members"]) + 1e-6
    assert any("on new ones" in warning for warning in done.data["warnings"])


def test_spaces_that_do_not_see_alike_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    table, one = pairs.write(tmp_path / "pairs"), homes.clip(tmp_path / "one")
    larger = tiny.preprocess().model_copy(update={"image": tiny.preprocess().image.model_copy(update={"size": 24})})
    for other, message in (
        (homes.clip(tmp_path / "larger", preprocess=larger), "see pictures and texts otherwise"),
        (homes.clip(tmp_path / "mute", tokenizer=None), "have different tokenizers, and one artifact holds one"),
        (homes.clip(tmp_path / "siglip", tiny.siglip()), "some have a bias, as SigLIP's loss gives one"),
    ):
        with pytest.raises(ArtifactError, match=message):
            ensemble([one, other], table, tmp_path / "both")
