"""The step `prune`: what goes is what matters least, and what is left is an artifact like others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polymodal.compress.calibration import losses
from polymodal.compress.importance import by_taylor
from polymodal.compress.low_rank import LowRank
from polymodal.compress.prune import Prune
from polymodal.compress.sparse import hold_zeros, matrices, put_zeros, two_of_four
from polymodal.compress.step import Work, parse_steps
from polymodal.compress.units import find_channels, find_heads, find_stacks, linear, remove_units
from polymodal.data.manifest import Manifest
from polymodal.encoders import RecordMlpConfig, ResnetConfig
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.models.forms import Int8Form
from tests import tiny
from tests.compress import homes, works
from tests.compress.models import moved


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "cache"))


def step(**options: Any) -> Prune:
    return Prune.parse(options, "prune")


def weights(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def said(work: Work, model: Any) -> torch.Tensor:
    out = model(tiny.pixels(3).float() / 255, tiny.text(3))
    return torch.cat([out.image, out.text])


# ---------------------------------------------------------------------------------------------------------------------
# Channels, heads, layers


def test_a_share_of_each_mlp_and_attention_goes_and_the_artifact_keeps_it(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    (pruned,) = parse_steps("prune:ffn=0.3,heads=0.5")
    after = works.done(pruned, work)
    assert {group.size for group in find_channels(after.model)} == {45}  # 64 - round(0.3 * 64)
    assert {group.size for group in find_heads(after.model)} == {1}
    blocks, width = 4, 16
    gone = blocks * (19 * (2 * width + 1) + 8 * (3 * (width + 1) + width))
    assert weights(work.model) - weights(after.model) == gone
    read = works.saved_and_read(tmp_path, after)
    assert torch.equal(said(work, read), said(work, after.model))
    assert not torch.allclose(said(work, read), said(work, work.model), atol=1e-3)


def test_what_goes_is_what_matters_least(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    groups = find_channels(work.model)
    scores = by_taylor(work.model, groups, [], losses(work, work.model, 256))
    after = step(ffn=0.5).run(work)
    expected = work.copy()
    for group in groups:
        best = scores[group.name].sort().indices[group.size // 2 :]
        remove_units(expected, group, best)
    assert torch.equal(said(work, after.model), said(work, expected))


def test_importance_finds_the_channels_that_do_something(tmp_path: Path) -> None:
    """Half of the channels of every MLP go out with nothing: each measure takes exactly these."""
    model: Any = moved(tiny.clip())
    dead = torch.arange(0, 64, 2)
    with torch.no_grad():
        for group in find_channels(model):
            up, down = (linear(model, part.linear) for part in group.slices)
            down.weight[:, dead] = 0
            up.weight[dead] *= 1e-4  # magnitude sees the whole channel, not its way out alone
            up.bias[dead] *= 1e-4
    work = works.pairs(tmp_path, model)
    for by in ("taylor", "activation", "magnitude"):
        for scope in ("each", "model"):
            after = step(ffn=0.5, by=by, scope=scope).run(work)
            torch.testing.assert_close(said(work, after.model), said(work, work.model), atol=1e-6, rtol=1e-5)


def test_the_scope_of_a_model_takes_most_where_least_is_missed(tmp_path: Path) -> None:
    model: Any = moved(tiny.clip())
    with torch.no_grad():
        for block in model.text_encoder.blocks:
            block.mlp.fc2.weight *= 1e-3
    after = step(ffn=0.4, scope="model").run(works.pairs(tmp_path, model))
    sizes = {group.name: group.size for group in find_channels(after.model)}
    assert sum(sizes.values()) == 4 * 64 - round(0.4 * 4 * 64)
    assert max(size for name, size in sizes.items() if name.startswith("text")) < 20
    assert min(sizes.values()) >= 1


@pytest.mark.parametrize("by", ["taylor", "activation", "magnitude"])
def test_layers_go_by_number_and_by_share(tmp_path: Path, by: str) -> None:
    model: Any = moved(tiny.clip(image=tiny.vit_config(layers=4), text=tiny.text_config(layers=3)))
    with torch.no_grad():  # layer 1 of the pictures' tower does nothing
        for weight in [*model.image_encoder.blocks[1].attention.out.parameters()]:
            weight.zero_()
        for weight in [*model.image_encoder.blocks[1].mlp.parameters()]:
            weight.zero_()
    if by == "magnitude":
        for weight in model.image_encoder.blocks[1].attention.parameters():
            weight.data *= 0.01
        model.image_encoder.blocks[1].norm1.weight.data *= 0.01
        model.image_encoder.blocks[1].norm2.weight.data *= 0.01
    work = works.pairs(tmp_path, model)
    after = works.done(step(layers=1, by=by), work)
    assert [stack.size for stack in find_stacks(after.model)] == [3, 2]
    image = work.model.image_encoder(tiny.pixels(2).float() / 255).pooled  # type: ignore[operator]
    torch.testing.assert_close(after.model.image_encoder(tiny.pixels(2).float() / 255).pooled, image)  # type: ignore[operator]
    assert torch.equal(said(work, works.saved_and_read(tmp_path, after)), said(work, after.model))
    half = step(layers=0.5, by=by, only=["image_encoder.*"]).run(work)
    assert [stack.size for stack in find_stacks(half.model)] == [2, 3]
    whole = step(layers=3, by=by, scope="model", only=["image_encoder.*"]).run(work)
    assert [stack.size for stack in find_stacks(whole.model)] == [1, 3]


def test_a_model_of_a_table_is_pruned_by_the_losses_of_its_targets(tmp_path: Path) -> None:
    work = works.rows(tmp_path)
    after = works.done(step(ffn=0.5, heads=0.5), work)
    assert [group.size for group in find_channels(after.model)] == [5]
    assert [group.size for group in find_heads(after.model)] == [1]
    assert weights(after.model) < weights(work.model)
    works.saved_and_read(tmp_path, after)
    count = sum(weight.numel() for weight in work.model.get_submodule("fusion").parameters())
    assert after.notes == (f"prune: fusion (Late, {count:,} weights) has nothing of the kind and stays whole",)


def test_pruning_twice_goes_on_from_what_is_left(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    after = step(ffn=0.5).run(step(layers=1).run(step(ffn=0.5).run(work)))
    assert {group.size for group in find_channels(after.model)} == {16}
    assert torch.equal(said(work, works.saved_and_read(tmp_path, after)), said(work, after.model))


def test_a_tower_that_has_nothing_to_prune_is_named(tmp_path: Path) -> None:
    image = ResnetConfig(layers=(1, 1, 1, 1), stem=4)
    model: Any = moved(tiny.clip(image=image))
    work = works.pairs(tmp_path, model)
    count = sum(weight.numel() for weight in model.image_encoder.parameters())
    after = step(ffn=0.3).run(work)
    assert after.notes == (f"prune: image_encoder (Resnet, {count:,} weights) has nothing of the kind and stays whole",)
    with pytest.raises(
        ConfigError,
        match=r'step "prune": heads: what only=\[\'image_\*\'\] leaves of the model \(image_encoder Resnet, '
        r"text_encoder TextTransformer\) has no attention",
    ):
        step(heads=0.5, only=["image_*"]).run(work)


def test_what_has_too_few_for_the_share_is_named(tmp_path: Path) -> None:
    model: Any = moved(tiny.clip(image=tiny.vit_config(heads=4)))
    after = step(heads=0.25).run(works.pairs(tmp_path, model))
    assert {group.size for group in find_heads(after.model)} == {3, 2}
    spared = "text_encoder.blocks.0.attention, text_encoder.blocks.1.attention"
    assert after.notes == (f"prune: heads: the share is less than one for {spared}, of which nothing went",)


def test_what_low_rank_has_factorized_is_not_pruned_and_named(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    some = LowRank(rank=0.3, by="weights", only=("text_encoder.*",)).run(work)
    after = step(ffn=0.5).run(some)
    assert [group.size for group in find_channels(after.model)] == [32, 32]
    assert "prune: 8 linear layers are products of two and stay so: prune before low_rank" in after.notes
    everything = LowRank(rank=0.3, by="weights").run(work)
    with pytest.raises(
        ConfigError, match=r"what low_rank made products of two does not count: prune before it\) has no"
    ):
        step(ffn=0.5).run(everything)


# ---------------------------------------------------------------------------------------------------------------------
# Single weights


def test_half_of_all_weights_are_zero_the_smallest_ones(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    after = works.done(step(sparsity=0.5), work)
    before = matrices(work.model)
    for name, weight in matrices(after.model).items():
        assert int((weight == 0).sum()) == round(weight.numel() / 2)
        assert before[name][weight == 0].abs().max() <= weight[weight != 0].abs().min()
        assert torch.equal(weight[weight != 0], before[name][weight != 0])
    assert weights(after.model) == weights(work.model)
    assert "prune: weights at zero save neither time nor memory here, only bytes of a compressed file" in after.notes


def test_of_all_together_the_smallest_go_wherever_they_stand() -> None:
    small, large = nn.Parameter(torch.arange(1.0, 11) / 100), nn.Parameter(torch.arange(1.0, 11))
    put_zeros([small, large], 0.5, "model")
    assert small.eq(0).all()
    assert large.ne(0).all()


@given(rows=st.integers(1, 5), columns=st.integers(1, 9), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_the_number_of_zeros_is_the_share_even_of_equal_weights(
    rows: int, columns: int, share: float, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    weight = nn.Parameter(torch.randint(1, 3, (rows, columns), generator=draw).float())
    ones = int((weight == 1).sum())
    put_zeros([weight], share)
    zeros = round(share * rows * columns)
    assert int((weight == 0).sum()) == zeros
    assert int((weight == 1).sum()) == max(0, ones - zeros)


@settings(max_examples=30)
@given(seed=st.integers(0, 999), rows=st.integers(1, 4), fours=st.integers(1, 4))
def test_two_of_four_keeps_the_two_largest_of_four(seed: int, rows: int, fours: int) -> None:
    weight = torch.randn(rows, 4 * fours, generator=torch.Generator().manual_seed(seed))
    left = two_of_four(weight)
    for row in range(rows):
        for start in range(0, 4 * fours, 4):
            numbers = weight[row, start : start + 4].tolist()
            largest = sorted(numbers, key=abs)[2:]
            assert left[row, start : start + 4].tolist() == [n if n in largest else 0.0 for n in numbers]


def test_two_of_four_leaves_layers_that_do_not_fit_and_names_them(tmp_path: Path) -> None:
    after = works.done(step(two_of_four=True), works.rows(tmp_path))
    widths = {name: weight.shape[1] for name, weight in matrices(after.model).items()}
    left = sorted(name for name, width in widths.items() if width % 4)
    assert left  # an MLP of 10 hidden channels
    assert after.notes[0] == f"prune: 2:4 is for linear layers of a multiple of 4 inputs; left dense: {', '.join(left)}"
    for name, weight in matrices(after.model).items():
        assert (weight == 0).float().mean() == (0 if name in left else 0.5)


def test_zeros_stay_zero_while_the_rest_learns(tmp_path: Path) -> None:
    model = step(sparsity=0.6).run(works.pairs(tmp_path)).copy()
    zero = {name: weight == 0 for name, weight in matrices(model).items()}
    before = {name: weight.detach().clone() for name, weight in matrices(model).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    with hold_zeros(model) as held:
        assert held == sum(int(mask.sum()) for mask in zero.values())
        for _ in range(3):
            optimizer.zero_grad()
            said(None, model).square().sum().sub(said(None, model)[0, 0]).backward()  # type: ignore[arg-type]
            optimizer.step()
    for name, weight in matrices(model).items():
        assert (weight[zero[name]] == 0).all()
        assert not torch.equal(weight, before[name])
    said(None, model)[0, 0].backward()  # type: ignore[arg-type]
    assert any(
        (weight.grad[zero[name]] != 0).any() for name, weight in matrices(model).items() if weight.grad is not None
    )


def test_a_layer_that_starts_at_zero_is_free_to_learn() -> None:
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.weight)
    with hold_zeros(layer) as held:
        assert held == 0


# ---------------------------------------------------------------------------------------------------------------------
# What is asked wrongly


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "say what to prune: ffn=0.3, heads=0.25, layers=2, sparsity=0.5 or two_of_four=true"),
        ({"ffn": 1.0}, r'step "prune"?.*ffn: Input should be less than 1, got 1.0'),
        ({"heads": 0}, "heads: Input should be greater than 0, got 0"),
        ({"sparsity": 1.5}, "sparsity: Input should be less than 1, got 1.5"),
        ({"layers": 1.5}, "layers"),
        ({"sparsity": 0.5, "two_of_four": True}, "sparsity and two_of_four are two patterns of zeros; choose one"),
        ({"fnn": 0.5}, 'unknown key "fnn"; did you mean "ffn"'),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Prune.parse(options, 'step "prune"')


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"heads": 0.9},
            r'heads: "image_encoder.blocks.0.attention" has 2, so 2 cannot go; at most 1 can; ask less, or',
        ),
        ({"ffn": 0.999}, r'ffn: "image_encoder.blocks.0.mlp.fc1" has 64, so 64 cannot go; at most 63 can'),
        ({"layers": 2}, r'layers: "image_encoder.blocks" has 2, so 2 cannot go; at most 1 can'),
        ({"ffn": 0.005}, "ffn is so little that nothing goes: the largest has 64; ask more"),
        ({"ffn": 0.999, "scope": "model"}, "ffn: 256 shall go and at most 252 can, for some of each must stay"),
        (
            {"sparsity": 0.5, "only": ["video_*"]},
            r"what only=\['video_\*'\] leaves of the model .* has no linear layer",
        ),
        ({"layers": 1, "only": ["video_*"]}, "has no stack of layers"),
    ],
)
def test_what_would_leave_nothing_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        step(**options).run(works.pairs(tmp_path))


def test_rows_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    with pytest.raises(
        DataError, match="a single pair says nothing of which text belongs to which picture; wanted two"
    ):
        step(ffn=0.5).run(replace(work, train=work.train.select([0])))
    with pytest.raises(DataError, match=r"wanted calibration rows, got none; give a table with rows to --data"):
        step(ffn=0.5).run(replace(work, train=work.train.select([])))
    (tmp_path / "table").mkdir()
    table = works.rows(tmp_path / "table")
    (tmp_path / "bare.csv").write_text("area,city\n50,a\n70,b\n", encoding="utf-8")
    bare = replace(table, train=Manifest.read(tmp_path / "bare.csv"))
    with pytest.raises(
        DataError, match=r"no calibration row has a label of any target \(price, defect, .*importance by=activation"
    ):
        step(ffn=0.5).run(bare)
    assert [group.size for group in find_channels(step(ffn=0.5, by="activation").run(bare).model)] == [5]


def test_what_is_quantized_is_refused(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    model = work.copy()
    model.forms = model.forms.changed("image_projection", Int8Form())
    with pytest.raises(ArtifactError, match="is quantized already, and what is quantized cannot be pruned; prune the"):
        step(ffn=0.5).run(replace(work, model=model))


def test_a_plain_table_model_without_attention_says_so(tmp_path: Path) -> None:
    given = homes.features()
    config = homes.model(given).config
    plain = RecordMlpConfig(numbers=1, categories=(4,), width=8, layers=1, dropout=0.0)
    model: Any = config.model_copy(update={"encoders": {"record": plain}}).build().eval()
    work = works.rows(tmp_path, model)
    with pytest.raises(
        ConfigError, match=r"heads: the model \(encoders.record RecordMlp, fusion Late\) has no attention"
    ):
        step(heads=0.5).run(work)
    with pytest.raises(ConfigError, match=r"has no MLP between two linear layers"):
        step(ffn=0.5).run(work)
