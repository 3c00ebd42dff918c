"""What must hold for every member of `FusionConfig`, at a size that a test can afford."""

import itertools
import json
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from polymodal.fusion import FusionConfig
from polymodal.fusion.missing import Missing
from polymodal.types import Tokens
from tests.fusion.small import CONFIGS, KINDS, TWO_INPUTS, built, here, join, tokens, widths

every = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
ABSENT = {"image": [0], "text": [1]}


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_every_kind_has_a_small_config() -> None:
    assert {config.kind for config in CONFIGS.values()} == KINDS


@every
def test_json_and_back_gives_an_equal_config(config: Any) -> None:
    assert TypeAdapter(FusionConfig).validate_python(json.loads(json.dumps(config.to_dict()))) == config


@every
@torch.no_grad()
def test_widths_are_those_that_the_module_names(config: Any) -> None:
    parts, given = built(config), tokens(config)
    fused = join(parts, given)
    assert fused.pooled.shape == (3, parts[0].width)
    assert fused.tokens.keys() == parts[0].widths.keys() == given.keys()
    for name, (sequence, mask, pooled) in fused.tokens.items():
        assert sequence.shape == (*mask.shape, parts[0].widths[name])
        assert pooled.shape == (3, parts[0].widths[name])
        assert mask.dtype == torch.bool


@every
def test_gradient_reaches_every_input_and_every_weight(config: Any) -> None:
    (model, missing), given = built(config), tokens(config)
    leaves = {name: [one.sequence.requires_grad_(), one.pooled.requires_grad_()] for name, one in given.items()}
    fused = join((model.train(), missing), given)
    fused.pooled.square().sum().backward(retain_graph=True)
    for name, (sequence, pooled) in leaves.items():
        got = [leaf.grad.abs().sum().item() for leaf in (sequence, pooled) if leaf.grad is not None]
        assert sum(got) > 1e-4, name
    states = [one.sequence.square().sum() for one in fused.tokens.values()]
    loss = torch.stack([*states, *(seen.square().sum() for seen in fused.maps.values())]).sum()
    loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@every
@torch.no_grad()
def test_a_row_of_a_batch_gives_what_it_gives_alone(config: Any) -> None:
    parts, given = built(config), tokens(config)
    for absent in ({}, ABSENT):
        together = join(parts, given, here(given, absent))
        for row in range(3):
            alone = {name: Tokens(*(part[row : row + 1] for part in one)) for name, one in given.items()}
            if config.kind != "spatial":  # whose tokens must stay a grid
                alone = {name: shorter(one) for name, one in alone.items()}
            there = {name: torch.tensor([row not in absent.get(name, [])]) for name in given}
            close(join(parts, alone, there).pooled[0], together.pooled[row])


def shorter(one: Tokens) -> Tokens:
    length = int(one.mask.sum())
    return Tokens(one.sequence[:, :length], one.mask[:, :length], one.pooled)


@every
@torch.no_grad()
def test_an_input_that_is_not_given_is_absent_in_every_row(config: Any) -> None:
    parts, given = built(config), tokens(config)
    present = here(given, {"image": [0, 1, 2]})
    without = {name: one for name, one in given.items() if name != "image"}
    close(join(parts, without, present).pooled, join(parts, given, present).pooled)


@every
@torch.no_grad()
def test_masked_places_and_padding_change_nothing(config: Any) -> None:
    parts, given = built(config), tokens(config)
    wanted = join(parts, given)
    noisy = {
        name: Tokens(torch.where(mask[:, :, None], sequence, 7.0), mask, pooled)
        for name, (sequence, mask, pooled) in given.items()
    }
    longer = [] if config.kind == "spatial" else [tokens(config, padding=3)]
    for same in (noisy, *longer):
        got = join(parts, same)
        close(got.pooled, wanted.pooled)
        for name, (sequence, mask, _) in wanted.tokens.items():
            close(got.tokens[name].sequence[:, : mask.shape[1]][mask], sequence[mask])


@every
def test_what_stands_in_absent_rows_has_no_effect_on_values_or_gradients(config: Any) -> None:
    def outcome(filler: float) -> list[torch.Tensor]:
        (model, missing), given = built(config), tokens(config)
        for name, rows in ABSENT.items():
            for part in (given[name].sequence, given[name].pooled):
                part[rows] = filler
        leaves = [part.requires_grad_() for one in given.values() for part in (one.sequence, one.pooled)]
        fused = join((model, missing), given, here(given, ABSENT))
        fused.pooled.square().sum().backward()
        weights = [*model.parameters(), *missing.parameters(), *leaves]
        return [fused.pooled, *(weight.grad for weight in weights if weight.grad is not None)]

    for got, wanted in zip(outcome(float("nan")), outcome(0.0), strict=True):
        assert torch.isfinite(got).all()
        assert torch.equal(got, wanted)


@every
@torch.no_grad()
def test_every_combination_of_inputs_gives_numbers_and_its_own(config: Any) -> None:
    parts, given = built(config), tokens(config)
    seen = []
    for kept in itertools.product([True, False], repeat=len(given)):
        present = {name: torch.full((3,), there) for name, there in zip(given, kept, strict=True)}
        fused = join(parts, given, present, maps=True)
        assert all(torch.isfinite(part).all() for part in (fused.pooled, *fused.maps.values()))
        seen.append(fused.pooled[0])
    assert all((one - other).abs().max() > 1e-5 for one, other in itertools.combinations(seen[:-1], 2))


@every
@torch.no_grad()
def test_rows_in_another_order_give_the_same_in_that_order(config: Any) -> None:
    parts, given, order = built(config), tokens(config), [2, 0, 1]
    present = here(given, ABSENT)
    moved = {name: Tokens(*(part[order] for part in one)) for name, one in given.items()}
    got = join(parts, moved, {name: there[order] for name, there in present.items()})
    close(got.pooled, join(parts, given, present).pooled[order])


@every
def test_gradients_are_those_of_finite_differences(config: Any) -> None:
    (model, missing), given = built(config), tokens(config)
    model, missing = model.double(), missing.double()
    names, masks = list(given), {name: one.mask for name, one in given.items()}
    leaves = [part.double().requires_grad_() for one in given.values() for part in (one.sequence, one.pooled)]

    def pooled(*parts: torch.Tensor) -> torch.Tensor:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        made = {name: Tokens(x, masks[name], vector) for name, (x, vector) in zip(names, pairs, strict=True)}
        return join((model, missing), made, here(made, ABSENT)).pooled

    assert torch.autograd.gradcheck(pooled, leaves, fast_mode=True)


@every
@torch.no_grad()
def test_maps_come_only_when_asked_for_and_change_nothing(config: Any) -> None:
    parts, given = built(config), tokens(config)
    plain, shown = join(parts, given), join(parts, given, maps=True)
    assert plain.maps == {}
    close(shown.pooled, plain.pooled)
    nothing_to_see = config.kind in ("tensor", "low_rank") or "concat" in config.to_dict().values()
    assert bool(shown.maps) is not nothing_to_see
    for seen in shown.maps.values():
        assert len(seen) == 3


@every
@torch.no_grad()
def test_weights_loaded_into_an_empty_module_give_the_same(config: Any) -> None:
    (model, missing), given = built(config), tokens(config)
    with torch.device("meta"):
        again = config.build(widths(config))
    again.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(join((again.eval(), missing), given).pooled, join((model, missing), given).pooled)


@every
@torch.no_grad()
def test_bfloat16_is_near_float32(config: Any) -> None:
    parts, given = built(config), tokens(config)
    exact = join(parts, given).pooled
    with torch.autocast("cpu", torch.bfloat16):
        rough = join(parts, given).pooled.float()
    assert torch.nn.functional.cosine_similarity(rough, exact, dim=-1).min() > 0.98


@every
@torch.no_grad()
def test_inputs_may_have_names_that_python_and_torch_use(config: Any) -> None:
    names = {"image": "values", "text": "price.usd", "record": "copy"}
    settings = json.loads(json.dumps(config.to_dict()))
    for field in ("query", "condition", "text"):
        if field in settings:
            settings[field] = "price.usd"
    if settings.get("fixed"):
        settings["fixed"] = {names[name]: weight for name, weight in settings["fixed"].items()}
    renamed = type(config).parse(settings, "renamed")
    given = {names[name]: one for name, one in tokens(config).items()}
    parts = built(renamed, {names[name]: width for name, width in widths(config).items()})
    assert torch.isfinite(join(parts, given).pooled).all()


@every
def test_two_inputs_are_joined_too(config: Any) -> None:
    if config.kind in TWO_INPUTS or getattr(config, "weights", "") == "fixed":
        return
    pair = {"image": 8, "text": 4}
    given = {name: one for name, one in tokens(config).items() if name in pair}
    fused = join((config.build(pair).eval(), Missing(pair)), given)
    assert torch.isfinite(fused.pooled).all()
