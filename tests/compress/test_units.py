"""What is found in a model, and that taking it out says the same as setting it to zero."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from polymodal.compress.units import Group, Stack, find_channels, find_heads, find_stacks, remove_layers, remove_units
from polymodal.models.forms import Forms, apply_forms
from polymodal.models.heads import MlpHead
from tests import tiny
from tests.compress.models import cases, clip, moved
from tests.fusion import small

CASES = cases()
WITHOUT_HEADS = {"record_mlp"} | {
    f"fusion {name}"
    for name, config in small.CONFIGS.items()
    if config.kind in ("late", "attention_pool", "gated", "film", "tensor", "low_rank", "aligned", "spatial")
}


@torch.no_grad()
def zeroed(model: nn.Module, group: Group, gone: list[int]) -> None:
    """Plain zeros where these units go out, written without the code under test."""
    for part in (part for part in group.slices if part.dim == 1):
        weight = model.get_submodule(part.linear).weight
        assert isinstance(weight, Tensor)
        share = weight.shape[1] // group.size
        for unit in gone:
            weight[:, unit * share : (unit + 1) * share] = 0


def some(count: int, seed: int) -> list[int]:
    """At least one of `count`, never all."""
    draw = torch.Generator().manual_seed(seed)
    many = int(torch.randint(1, count, (), generator=draw)) if count > 1 else 0
    return sorted(torch.randperm(count, generator=draw)[:many].tolist())


def without(model: nn.Module, groups: list[Group], seed: int) -> tuple[nn.Module, nn.Module, int]:
    """A copy with units at zero, one without them, and how many went."""
    zeros, smaller, count = copy.deepcopy(model), copy.deepcopy(model), 0
    for number, group in enumerate(groups):
        gone = some(group.size, seed + number)
        zeroed(zeros, group, gone)
        remove_units(smaller, group, torch.tensor([unit for unit in range(group.size) if unit not in gone]))
        count += len(gone)
    return zeros, smaller, count


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("find", [find_channels, find_heads])
def test_removed_units_say_what_units_at_zero_say(name: str, find: Callable[[nn.Module], list[Group]]) -> None:
    model, call = CASES[name]()
    groups = find(model)
    assert find is find_channels or bool(groups) == (name not in WITHOUT_HEADS)
    before = call(model)
    zeros, smaller, count = without(model, groups, seed=5)
    torch.testing.assert_close(call(smaller), call(zeros), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(call(model), before, atol=0, rtol=0)
    if count:
        assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
        assert not torch.allclose(call(smaller), before, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_removed_layers_say_what_skipped_layers_say(name: str) -> None:
    model, call = CASES[name]()
    for stack in find_stacks(model):
        if stack.size <= stack.least:
            continue
        skipped, smaller = copy.deepcopy(model), copy.deepcopy(model)
        gone = stack.first + stack.size - 1
        for part in stack.lists:
            skipped.get_submodule(f"{part}.{gone}").register_forward_hook(lambda _, given, out: given[0])
        remove_layers(smaller, stack, {gone})
        torch.testing.assert_close(call(smaller), call(skipped), atol=1e-6, rtol=1e-6)
        assert not torch.allclose(call(smaller), call(model), atol=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    heads=st.sampled_from([1, 2, 4]),
    layers=st.integers(1, 3),
    mlp_width=st.integers(2, 40),
    kind=st.sampled_from(["bert", "text_transformer"]),
    pool=st.sampled_from(["cls", "mean", "map"]),
    seed=st.integers(0, 10_000),
)
def test_any_clip_without_units_is_the_one_with_zeros(
    heads: int, layers: int, mlp_width: int, kind: str, pool: str, seed: int
) -> None:
    sizes = {"heads": heads, "layers": layers, "mlp_width": mlp_width}
    text = tiny.bert_config(**sizes) if kind == "bert" else tiny.text_config(**sizes)
    model, call = clip(image=tiny.vit_config(**sizes, pool=pool), text=text, image_projection="mlp")
    groups = find_channels(model) + find_heads(model)
    zeros, smaller, _ = without(model, groups, seed)
    torch.testing.assert_close(call(smaller), call(zeros), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_the_changes_build_what_was_made_smaller(name: str) -> None:
    model, call = CASES[name]()
    smaller, fresh, changes = copy.deepcopy(model), copy.deepcopy(moved(model)), []
    for stack in find_stacks(smaller):
        if stack.size > stack.least:
            changes += remove_layers(smaller, stack, {stack.first})
    for group in find_channels(smaller) + find_heads(smaller):
        changes += remove_units(smaller, group, torch.arange(group.size)[: max(1, group.size // 2)])
    apply_forms(fresh, Forms(changes=tuple(changes)))
    fresh.load_state_dict(smaller.state_dict())
    torch.testing.assert_close(call(fresh), call(smaller), atol=0, rtol=0)


def test_heads_and_channels_of_a_transformer_are_counted() -> None:
    model = tiny.clip()
    assert {(group.name, group.size) for group in find_heads(model)} == {
        (f"{tower}_encoder.blocks.{number}.attention", 2) for tower in ("image", "text") for number in (0, 1)
    }
    assert {group.size for group in find_channels(model)} == {64}
    assert find_stacks(model) == [
        Stack("image_encoder.blocks", ("image_encoder.blocks",), 0, 2),
        Stack("text_encoder.blocks", ("text_encoder.blocks",), 0, 2),
    ]


def test_an_mlp_with_a_norm_between_its_layers_is_left_alone() -> None:
    normed = MlpHead(outputs=3).build(4)
    plain = MlpHead(outputs=3, norm=None).build(4)
    assert find_channels(normed) == []
    assert [group.size for group in find_channels(plain)] == [8]


def test_layers_that_only_work_together_go_together() -> None:
    kinds = ("crossmodal", "bottleneck", "coattention")
    stacks = {kind: find_stacks(CASES[f"fusion {kind}"]().model) for kind in kinds}
    assert stacks["crossmodal"] == [Stack("", ("exchanges", "blocks.image", "blocks.text"), 0, 2)]
    assert stacks["bottleneck"] == [Stack("", ("stacks.0", "stacks.1", "stacks.2"), 1, 2, least=2)]
    assert stacks["coattention"] == [Stack("", ("stages",), 0, 2)]
