"""The step `low_rank`: the best product of two, where it is smaller."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymodal.compress.low_rank import LowRank, Moments, factorize
from polymodal.compress.step import parse_steps
from polymodal.data.manifest import Manifest
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.layers.compressed import LowRankLinear
from polymodal.models.forms import Int8Form
from tests import tiny
from tests.compress import works
from tests.compress.models import moved


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "cache"))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight.data = weight
    if bias is not None:
        made.bias.data = bias
    return made


def inputs(count: int, width: int) -> Tensor:
    """Rows around a mean far from 0, that hardly leave a few directions."""
    directions = drawn(width, width, seed=1) * (0.5 ** torch.arange(width))[:, None]
    return drawn(count, width, seed=2) @ directions + 5


@torch.no_grad()
def error(linear: nn.Linear, factors: Any, x: Tensor) -> float:
    bias = 0 if factors.bias is None else factors.bias
    said = x.double() @ factors.first.T @ factors.second.T + bias
    return float((linear(x).double() - said).square().sum(1).mean())


def seen(x: Tensor, parts: int = 3) -> Moments:
    found = Moments()
    for part in x.chunk(parts):
        found.add(part)
    return found


def test_a_weight_of_low_rank_is_found_again() -> None:
    weight = drawn(12, 3) @ drawn(3, 8, seed=1)
    for given in (None, seen(inputs(100, 8))):
        factors = factorize(layer(weight, drawn(12)), given, energy=0.999999)
        assert factors.first.shape == (3, 8)
        torch.testing.assert_close((factors.second @ factors.first).float(), weight, atol=1e-4, rtol=1e-4)


def test_the_error_is_what_the_cut_singular_values_say() -> None:
    """Of x with covariance 1, E|(W - BA) x|² is the sum of the squares that were cut."""
    linear = layer(drawn(6, 5))
    x = drawn(400, 5)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T, correction=0))).T  # whitened
    sizes = torch.linalg.svdvals(linear.weight.detach().double())
    for rank in (1, 2, 4):
        plain = factorize(linear, rank=rank)
        assert error(linear, plain, x) == pytest.approx(float((sizes[rank:] ** 2).sum()), rel=1e-3)
        assert plain.kept == pytest.approx(float((sizes[:rank] ** 2).sum() / (sizes**2).sum()))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 4, 7])
def test_by_rows_no_other_product_does_better_on_the_rows(rank: int, bias: bool) -> None:
    linear, x = layer(drawn(10, 16), drawn(10) if bias else None), inputs(500, 16)
    by_rows, plain = factorize(linear, seen(x), rank=rank), factorize(linear, rank=rank)
    assert error(linear, by_rows, x) < 0.6 * error(linear, plain, x)


def test_a_bias_takes_up_the_means() -> None:
    linear, x = layer(drawn(10, 16), drawn(10)), inputs(500, 16)
    factors = factorize(linear, seen(x), rank=2)
    assert factors.bias is not None
    said = x.double() @ factors.first.T @ factors.second.T + factors.bias
    torch.testing.assert_close(said.mean(0).float(), linear(x).mean(0), atol=1e-3, rtol=1e-4)


def test_the_step_makes_layers_smaller_and_the_artifact_keeps_it(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    (step,) = parse_steps("low_rank:rank=0.25")
    after = works.done(step, work)
    factorized = {name: m for name, m in after.model.named_modules() if isinstance(m, LowRankLinear)}
    assert len(factorized) == 4 * 4 + 2  # qkv, out, fc1, fc2 of four blocks, and the two projections
    assert factorized["text_encoder.blocks.0.mlp.fc1"].first.weight.shape == (4, 16)
    assert sum(w.numel() for w in after.model.parameters()) < sum(w.numel() for w in work.model.parameters())
    read = works.saved_and_read(tmp_path, after)
    batch = tiny.image_text_batch(3)
    assert torch.equal(read.embed_text(batch.text), after.model.embed_text(batch.text))  # type: ignore[operator]


def test_a_layer_that_a_product_would_not_make_smaller_stays(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    after = LowRank(rank=0.6).run(work)  # 0.6 * 16 = 10 ranks of (16, 16) are 320 weights, not 256
    names = {name for name, m in after.model.named_modules() if isinstance(m, LowRankLinear)}
    parts = ("attention.qkv", "mlp.fc1", "mlp.fc2")
    blocks = [f"{side}_encoder.blocks.{number}" for side in ("image", "text") for number in (0, 1)]
    assert names == {f"{block}.{part}" for block in blocks for part in parts} | {"image_projection", "text_projection"}
    assert after.notes == ("low_rank: 4 of 18 linear layers stay whole, a product is not smaller",)


def test_energy_near_one_changes_little_and_less_energy_more(tmp_path: Path) -> None:
    model: Any = moved(tiny.clip())
    with torch.no_grad():  # real layers are not of full rank: let these have few strong directions
        for module in model.modules():
            if isinstance(module, nn.Linear):
                left, sizes, right = torch.linalg.svd(module.weight, full_matrices=False)
                module.weight.copy_(left * (sizes * 0.4 ** torch.arange(len(sizes))) @ right)
    work = works.pairs(tmp_path, model, rows=32)
    text = tiny.text(8)

    @torch.no_grad()
    def cosine(energy: float) -> float:
        smaller: Any = LowRank(energy=energy).run(work).model
        return float((smaller.embed_text(text) * work.model.embed_text(text)).sum(1).mean())  # type: ignore[operator]

    assert 1 - cosine(0.9999) < 1e-3
    assert 1 - cosine(0.5) > 1 - cosine(0.99) > 0


def test_only_and_weights_alone(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    empty = replace(work, train=work.train.select([]))
    after = LowRank(rank=0.25, by="weights", only=("*.fc1",)).run(empty)
    names = {name for name, m in after.model.named_modules() if isinstance(m, LowRankLinear)}
    assert names == {f"{side}_encoder.blocks.{n}.mlp.fc1" for side in ("image", "text") for n in (0, 1)}


def test_a_model_of_a_table(tmp_path: Path) -> None:
    after = works.done(LowRank(rank=0.3), works.rows(tmp_path))
    assert any(isinstance(m, LowRankLinear) for m in after.model.modules())
    works.saved_and_read(tmp_path, after)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"wanted either energy \(energy=0.95\) or rank \(rank=0.5\)"),
        ({"energy": 0.9, "rank": 0.5}, "wanted either energy"),
        ({"energy": 1.0}, "energy: Input should be less than 1, got 1.0"),
        ({"rank": 0}, "rank: Input should be greater than 0, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LowRank.parse(options, 'step "low_rank"')


def test_what_cannot_be_factorized_is_refused(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    with pytest.raises(
        ConfigError, match=r"none of 18 linear layers is smaller as a product of two at that rank; keep"
    ):
        LowRank(rank=0.9).run(work)
    with pytest.raises(ConfigError, match=r"only=\['video.\*'\] fits no linear layer of the model"):
        LowRank(rank=0.5, only=("video.*",)).run(work)
    model = work.copy()
    model.forms = model.forms.changed("image_projection", Int8Form())
    with pytest.raises(ArtifactError, match="is quantized already"):
        LowRank(rank=0.5).run(replace(work, model=model))


def test_rows_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    work = works.rows(tmp_path)
    (tmp_path / "alike.csv").write_text("area,city\n" + "50,a\n" * 4, encoding="utf-8")
    alike = replace(work, train=Manifest.read(tmp_path / "alike.csv"))
    with pytest.raises(DataError, match=r"alike.csv: the calibration rows are all alike to the model.*by=weights"):
        LowRank(energy=0.9, only=("heads.*",)).run(alike)
