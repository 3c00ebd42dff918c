"""Recipes: those that ship, names, changes, and what is refused."""

from pathlib import Path

import pytest
import torch
import yaml

from polymodal.errors import ConfigError
from polymodal.train.build import resolve_precision
from polymodal.train.recipe import NewModel, Recipe, TrainerConfig, recipe_names


def test_the_recipes_that_ship() -> None:
    assert recipe_names() == ["clip", "clip-tiny", "lit", "siglip"]


@pytest.mark.parametrize("name", recipe_names())
def test_each_of_them_is_whole_and_builds_its_model(name: str) -> None:
    recipe = Recipe.read(name)
    assert recipe.name == name
    assert isinstance(recipe.model, NewModel)
    with torch.device("meta"):
        recipe.model.sizes().build()
    for objective in recipe.objectives:
        assert "bias" not in objective.build().reads or recipe.model.bias is not None


def test_resolved_it_reads_back_as_itself(tmp_path: Path) -> None:
    recipe = Recipe.read("siglip", ["trainer.epochs=3", "model.image.layers=2"])
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe.to_dict(), allow_unicode=True), encoding="utf-8")
    assert Recipe.read(tmp_path / "mine.yaml") == recipe


def test_other_keys_change_the_sizes_that_a_name_stands_for() -> None:
    model = Recipe.read("clip-tiny", ["model.image.layers=2", "model.temperature=0.5"]).model
    assert isinstance(model, NewModel)
    assert (model.image.layers, model.image.width, model.temperature) == (2, 128, 0.5)  # type: ignore[union-attr]


def test_another_kind_of_tower_takes_nothing_from_the_old_one() -> None:
    model = Recipe.read("clip-tiny", ["model.image={kind: resnet, image_size: 32}"]).model
    assert isinstance(model, NewModel)
    assert model.image.to_dict()["kind"] == "resnet"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["trainer.epoch=3"], r'clip-tiny: unknown key "trainer\.epoch"; did you mean "epochs"\?'),
        (["trainer.lr=-1"], r"trainer\.lr: .*greater than 0"),
        (["model.image.layer=3"], r'unknown key "model\.image\.layer"; did you mean "layers"\?'),
        (["model.name=clip-vit-b23"], r'no model is named "clip-vit-b23"; did you mean "clip-vit-b32"\?'),
        (["objectives=[{kind: info_nse}]"], r'kind "info_nse" is not known; did you mean "info_nce"\?'),
        (["objectives=[]"], "objectives"),
        (["trainer.devices=3"], r"batch_size must be a multiple of devices \(3\)"),
        (["trainer.lr=-1", "trainer.epoch=3"], r"(?s)trainer\.lr.*trainer\.epoch"),
    ],
)
def test_faults_are_named(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.read("clip-tiny", changes)


def test_a_recipe_that_does_not_exist_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r'no recipe is named "clip-tyni"; did you mean "clip-tiny"\?'):
        Recipe.read("clip-tyni")


def test_warm_up_is_a_share_or_steps() -> None:
    assert TrainerConfig(warmup=0.1).warmup_steps(200) == 20
    assert TrainerConfig(warmup=7).warmup_steps(200) == 7
    assert TrainerConfig(warmup=0).warmup_steps(200) == 0


def test_auto_precision_is_bf16_only_where_the_processor_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("bf16", "cpu") == "bf16"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for native, precision in ((False, "fp32"), (True, "bf16")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert resolve_precision("auto", "cpu") == precision
