"""Soups: what is averaged and what is not, what greed leaves out, and models that share no start."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import polymodal as pm
from polymodal import artifact
from polymodal.compress.soup import likeness, mean_of, renew_batch_norm, soup
from polymodal.encoders import ResnetConfig
from polymodal.errors import ArtifactError, ConfigError
from polymodal.models.forms import Bfloat16Storage
from polymodal.models.multimodal import Multimodal
from tests import tiny
from tests.compress import homes, work
from tests.engine import tables as pairs


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_floats_are_averaged_and_whole_numbers_are_not() -> None:
    one = {"w": torch.tensor([1.0, 2.0]), "steps": torch.tensor(3), "running": torch.tensor([1.0])}
    two = {"w": torch.tensor([2.0, 4.0]), "steps": torch.tensor(9), "running": torch.tensor([5.0])}
    three = {"w": torch.tensor([6.0, 0.0]), "steps": torch.tensor(9), "running": torch.tensor([5.0])}
    found = mean_of([one, two, three], running=["running"])
    assert {name: value.tolist() for name, value in found.items()} == {"w": [3.0, 2.0], "steps": 3, "running": [1.0]}
    assert one["w"].tolist() == [1.0, 2.0]


def nudged(model: Multimodal, seed: int, by: float = 0.02) -> Multimodal:
    """The model as a little training leaves it."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=draw))
    return model


def ingredients(tmp_path: Path, *seeds: int, by: float = 0.02) -> list[Path]:
    given = homes.features("price", "color")
    return [homes.saved(tmp_path / f"n{seed}", given, built=nudged(homes.model(given), seed, by)) for seed in seeds]


def weights(folder: Path) -> dict[str, Tensor]:
    return dict(artifact.load(folder).model.state_dict())


def test_a_uniform_soup_holds_the_mean_of_all_weights(tmp_path: Path) -> None:
    sources, table = ingredients(tmp_path, 1, 2), homes.table(tmp_path / "rows.csv")
    done = soup(sources, table, tmp_path / "soup", how="uniform")
    one, two, whole = (weights(folder) for folder in (*sources, done.folder))
    for name, value in whole.items():
        torch.testing.assert_close(value, (one[name] + two[name]) / 2)
    assert [entry["in"] for entry in done.data["ingredients"]] == [True, True]
    found = pm.load(done.folder).predict([{"area": 40, "city": "a"}]).predictions[0]
    assert 0 < found["color"].probability < 1
    report = pm.evaluate(done.folder, table, split="val").data["targets"]
    mains = [report["price"]["metrics"]["r2"]["value"], report["color"]["metrics"]["accuracy"]["value"]]
    assert done.data["soup"]["score"] == pytest.approx(sum(mains) / 2)


def test_a_greedy_soup_leaves_out_what_harms_and_is_never_worse_than_the_best(tmp_path: Path) -> None:
    good = ingredients(tmp_path, 1, 2)
    given = homes.features("price", "color")
    bad = homes.model(given)
    with torch.no_grad():
        bad.heads.targets["price"][1].bias.fill_(500.0)  # type: ignore[index]
    spoiled = homes.saved(tmp_path / "bad", given, built=bad)
    table = homes.table(tmp_path / "rows.csv")
    done = soup([spoiled, *good], table, tmp_path / "soup")
    told = done.data["ingredients"]
    assert not told[0]["in"]
    assert done.data["soup"]["score"] >= max(one["score"] for one in told)
    assert done.data["warnings"] == []
    uniform = soup([spoiled, *good], table, tmp_path / "all", how="uniform")
    assert any("its best ingredient" in warning for warning in uniform.data["warnings"])


def test_models_that_share_no_start_are_told_so(tmp_path: Path) -> None:
    strangers = [homes.saved(tmp_path / str(seed), homes.features("price"), seed) for seed in range(2)]
    done = soup(strangers, homes.table(tmp_path / "rows.csv"), tmp_path / "soup", how="uniform")
    assert any("hardly share a start" in warning for warning in done.data["warnings"])
    given = homes.features("price")
    assert likeness(homes.model(given), nudged(homes.model(given), 1)) > 0.8
    assert abs(likeness(homes.model(given), homes.model(given, 1))) < 0.2


def test_statistics_of_batch_norm_are_found_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = ResnetConfig(image_size=32, block="basic", layers=(1, 1, 1, 1), stem=4)
    model = tiny.clip_config(image=image).build().eval()
    begun = work.begun(homes.clip(tmp_path / "clip", model), work.pairs(tmp_path / "pairs", 24))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = norms[0].running_mean.clone()  # type: ignore[union-attr]
    seen: list[Tensor] = []
    hook = norms[0].register_forward_hook(lambda module, given, said: seen.append(given[0]))
    renew_batch_norm(model, begun)
    hook.remove()
    assert norms[0].running_mean is not None
    torch.testing.assert_close(norms[0].running_mean, torch.cat(seen).mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert not torch.equal(norms[0].running_mean, before)
    assert not any(module.training for module in model.modules())
    assert norms[0].momentum == 0.1


def test_pictures_and_texts_make_soups_too(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    table = pairs.write(tmp_path / "pairs")
    sources = [homes.clip(tmp_path / "one"), homes.clip(tmp_path / "two", nudged(tiny.clip(), 1))]  # type: ignore[arg-type]
    done = soup(sources, table, tmp_path / "soup", how="uniform")
    assert done.data["soup"]["metric"] == "R@1"
    assert pm.load(done.folder).embed(texts=["a dog"]).shape == (1, 8)


def refused(message: str, sources: list[Path], tmp_path: Path, **options: Any) -> None:
    with pytest.raises((ArtifactError, ConfigError), match=message):
        soup(sources, homes.table(tmp_path / "rows.csv"), options.pop("out", tmp_path / "soup"), **options)
    assert not (tmp_path / "soup").exists()


def test_what_cannot_be_averaged_is_refused(tmp_path: Path) -> None:
    one, two = ingredients(tmp_path, 1, 2)
    refused("wanted two models or more, got 1", [one], tmp_path)
    refused("is there twice", [one, one], tmp_path)
    refused("is one of the ingredients; choose another folder", [one, two], tmp_path, out=two)
    refused('wanted uniform or greedy, got "best"', [one, two], tmp_path, how="best")
    other = homes.saved(tmp_path / "other", homes.features("price"))
    refused(r"of different architectures \(heads.targets", [one, other], tmp_path)
    scaled = homes.saved(tmp_path / "scaled", homes.features("price", "color", mean=7.0))
    refused("see their inputs otherwise .* or use `polymodal ensemble`", [one, scaled], tmp_path)
    stored = artifact.load(two)
    stored.model.forms = stored.model.forms.storing({next(iter(stored.model.state_dict())): Bfloat16Storage()})
    small = artifact.save(tmp_path / "small", model=stored.model, tokenizer=None, preprocess=stored.preprocess)
    refused("is quantized; average first and quantize the soup", [small, one], tmp_path)
    refused("they were pruned otherwise", [one, small], tmp_path)
