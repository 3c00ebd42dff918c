from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymodal.artifact import Model
from polymodal.compress.quantize import Bfloat16, Int4, Int8, input_ranges, storable
from polymodal.compress.smooth import smooth, smoothable
from polymodal.compress.step import Quality, Work, parse_steps
from polymodal.encoders import BertConfig
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.layers.compressed import Int8Linear
from polymodal.models.clip import Clip, ClipConfig
from polymodal.models.forms import IntegerStorage
from tests import tiny
from tests.compress import works

WORST = "image_encoder.blocks.0.mlp.fc1"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return works.pairs(tmp_path)


def vectors(model: Model) -> Tensor:
    assert isinstance(model, Clip)
    with torch.inference_mode():
        out = model(tiny.preprocess().image.normalize(tiny.pixels()), tiny.text())
    return torch.cat([out.image, out.text])


def integer_layers(model: Model) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, Int8Linear)}


def with_measure(work: Work, max_loss: float, value: Any) -> Work:
    """The work, whose score is `value(model)`; 1 before."""

    def measure(now: Work) -> Quality:
        return Quality("R@1", value(now.model), None, None, {})

    return replace(work, measure=measure, max_loss=max_loss, before=Quality("R@1", 1.0, None, None, {}))


@pytest.mark.parametrize(
    ("written", "near"),
    [
        ("int8", 0.999),
        ("int8:activations=static", 0.997),
        ("int8:activations=static,range=minmax", 0.997),
        ("int8:smooth=0.5", 0.999),
        ("int8:activations=none", 0.9999),
        ("int8:activations=none,group=8", 0.9999),
        ("int4:group=8", 0.97),
        ("bf16", 0.9999),
    ],
)
def test_a_quantized_model_is_near_and_comes_back_as_it_is(
    written: str, near: float, work: Work, tmp_path: Path
) -> None:
    [step] = parse_steps(written)
    after = works.done(step, work)
    exact, found = vectors(work.model), vectors(after.model)
    assert not torch.equal(found, exact)
    assert (exact * found).sum(1).min() > near
    assert torch.equal(vectors(works.saved_and_read(tmp_path, after)), found)
    small, whole = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("small", "whole"))
    assert small < 0.72 * whole  # names and scales weigh much in so small a model


def test_every_linear_layer_multiplies_integers_and_the_rest_is_stored(work: Work) -> None:
    after = Int8().run(work)
    big = {name for name, module in work.model.named_modules()
           if isinstance(module, nn.Linear) and module.weight.numel() >= 256}  # fmt: skip
    assert integer_layers(after.model) == big
    assert "text_encoder.embedding.weight" in after.model.forms.stored
    assert storable(after.model) == []


def test_rows_of_a_table_are_quantized_too(tmp_path: Path) -> None:
    work = works.rows(tmp_path)
    for written in ("int8", "int8:activations=static,rows=8", "int4"):
        after = parse_steps(written)[0].run(work)
        assert after.model.forms != work.model.forms
        works.saved_and_read(tmp_path, after)


def test_a_static_range_is_what_the_rows_show(work: Work) -> None:
    seen: list[Tensor] = []
    hook = work.model.get_submodule(WORST).register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten()))
    ranges = input_ranges(work, work.model, [WORST], 6, 100)
    hook.remove()
    values = torch.cat(seen)
    assert ranges[WORST] == (values.min().item(), values.max().item())
    narrow = input_ranges(work, work.model, [WORST], 6, 90)[WORST]
    assert narrow[0] == pytest.approx(values.quantile(0.1).item(), abs=0.02)
    assert narrow[1] == pytest.approx(values.quantile(0.9).item(), abs=0.02)
    layer = Int8(activations="static", range="minmax", rows=6).run(work).model.get_submodule(WORST)
    assert isinstance(layer, Int8Linear)
    assert layer.input_scale is not None
    assert layer.input_scale.item() == pytest.approx((values.max() - values.min()).item() / 255, rel=1e-6)


def test_a_layer_that_no_row_reaches_is_stored_and_named(work: Work) -> None:
    assert isinstance(work.model, Clip)
    work.model.image_encoder.never = nn.Linear(16, 16)
    after = Int8(activations="static").run(work)
    assert "image_encoder.never.weight" in after.model.forms.stored
    assert any("no calibration row reaches image_encoder.never" in note for note in after.notes)


def test_smoothing_changes_nothing_but_the_ranges(work: Work) -> None:
    model = work.copy()
    norm, linear = next(smoothable(model))
    with torch.no_grad():
        norm.weight[3] *= 40  # an outlier, as trained transformers have them
    before = vectors(model)
    spread = _range(work, model, linear)
    count = smooth(model, 0.5, _passes(work, model))
    assert count == 8  # two of each block, two blocks, two towers
    assert torch.allclose(vectors(model), before, atol=1e-5)
    assert _range(work, model, linear) < 0.6 * spread


def _passes(work: Work, model: Model) -> Any:
    from polymodal.compress.calibration import passes

    return passes(work, model, 6)


def _range(work: Work, model: Model, linear: nn.Module) -> float:
    [name] = [name for name, module in model.named_modules() if module is linear]
    low, high = input_ranges(work, model, [name], 6, 100)[name]
    return high - low


def test_smoothing_by_hand() -> None:
    """s = max|X|^a / max|W|^(1 - a), of one channel."""
    model = tiny.clip()
    norm, linear = next(smoothable(model))
    weight, gain = linear.weight[:, 2].abs().max().item(), norm.weight[2].item()
    given = torch.zeros(1, 1, 16)
    given[..., 2] = -5.0
    smooth(model, 0.75, (linear(given) for _ in range(1)))
    scale = 5.0**0.75 / weight**0.25
    assert norm.weight[2].item() == pytest.approx(gain / scale, rel=1e-5)
    assert linear.weight[:, 2].abs().max().item() == pytest.approx(weight * scale, rel=1e-5)
    assert norm.weight[3].item() == 1.0  # a channel that is always 0 stays


def test_post_norm_blocks_are_not_smoothed(tmp_path: Path) -> None:
    bert: BertConfig = tiny.bert_config()
    model = bert.build()
    assert list(smoothable(model)) == []
    sizes = ClipConfig(image=tiny.vit_config(layers=0), text=bert, width=8)
    work = works.pairs(tmp_path, Clip(sizes).eval())
    with pytest.raises(
        ConfigError, match=r'step "int8": smooth: no LayerNorm of this model feeds a linear layer alone'
    ):
        Int8(smooth=0.5).run(work)


# ---------------------------------------------------------------------------------------------------------------------
# A bound on the loss


def hurt(work: Work) -> Work:
    """The work, with one layer whose rows no integers fit."""
    with torch.no_grad():
        layer = work.model.get_submodule(WORST)
        assert isinstance(layer, nn.Linear)
        layer.weight.mul_(5)
        layer.weight[:, 0] = 3000.0
        norm = work.model.get_submodule("image_encoder.blocks.0.norm2")
        assert isinstance(norm, nn.LayerNorm)
        norm.weight[0] = norm.bias[0] = 0.0
    return work


def test_the_layer_that_hurts_most_stays_in_float(work: Work) -> None:
    work = with_measure(hurt(work), 0.005, lambda model: 0.9 if WORST in integer_layers(model) else 0.999)
    after = Int8().run(work)
    everything = integer_layers(Int8().run(replace(work, max_loss=None)).model)
    assert integer_layers(after.model) == everything - {WORST}
    assert any(f"1 of 18 parts stay in float, for they hurt most: {WORST}" in note for note in after.notes), after.notes
    assert not torch.equal(vectors(after.model), vectors(work.model))


def test_more_layers_are_given_back_until_the_bound_holds(work: Work) -> None:
    work = with_measure(work, 0.02, lambda model: 1 - 0.01 * len(integer_layers(model)))
    after = Int8().run(work)
    assert len(integer_layers(after.model)) <= 2
    assert any("parts stay in float" in note for note in after.notes)


def test_nothing_is_given_back_where_the_bound_holds(work: Work) -> None:
    work = with_measure(work, 0.1, lambda model: 0.95)
    after = Int8().run(work)
    assert after.notes == ()
    assert WORST in integer_layers(after.model)


def test_a_bound_that_cannot_be_kept_is_refused(work: Work) -> None:
    def value(model: Model) -> float:
        return 1.0 if model.forms == work.model.forms else 0.5

    with pytest.raises(
        ArtifactError, match=r"cannot be kept: R@1 was 100.00 %, 1 points may be lost; it is broken with"
    ):
        Int8().run(with_measure(work, 0.01, value))
    with pytest.raises(ArtifactError, match=r"the model has 50.00 % before any weight is quantized"):
        Int8().run(with_measure(work, 0.01, lambda model: 0.5))


# ---------------------------------------------------------------------------------------------------------------------
# What is asked wrongly


def test_what_is_kept_stays_as_it_is(work: Work) -> None:
    after = Int8(keep=("image_encoder.blocks.0", "*.out")).run(work)
    layers = integer_layers(after.model)
    assert layers
    assert not any(name.startswith("image_encoder.blocks.0.") or name.endswith(".out") for name in layers)
    name = "image_encoder.blocks.0.mlp.fc2.weight"
    assert torch.equal(after.model.state_dict()[name], work.model.state_dict()[name])
    with pytest.raises(ConfigError, match=r'step "int8": keep "nose\.\*" fits no weight; there are \d+, first:'):
        Int8(keep=("nose.*",)).run(work)


@pytest.mark.parametrize("first", [Int8(), Int4(), Int8(activations="none")])
@pytest.mark.parametrize("second", [Int8(), Int4()])
def test_a_model_is_quantized_once(first: Any, second: Any, work: Work) -> None:
    with pytest.raises(
        ArtifactError, match=r"is quantized already \(\d+ layers, first: .*quantize the artifact that it"
    ):
        second.run(first.run(work))


def test_bf16_takes_what_is_left_and_then_nothing(work: Work) -> None:
    kept = Int8(keep=("image_encoder.*",)).run(work)
    after = Bfloat16().run(kept)
    assert {type(store) for store in after.model.forms.stored.values()} > {IntegerStorage}
    with pytest.raises(ArtifactError, match="every weight is stored in 16 bits or fewer already"):
        Bfloat16().run(after)


def test_integers_take_what_bf16_has_taken(work: Work, tmp_path: Path) -> None:
    after = Int8().run(Bfloat16().run(work))
    assert integer_layers(after.model) == integer_layers(Int8().run(work).model)
    assert {type(store) for store in after.model.forms.stored.values()} == {IntegerStorage}
    assert torch.equal(vectors(works.saved_and_read(tmp_path, after)), vectors(after.model))


def test_rows_that_are_alike_are_refused(work: Work) -> None:
    same = replace(work, train=work.train.select([0, 0, 0]))
    with pytest.raises(DataError, match="the 3 calibration rows are all alike to the model"):
        Int8(activations="static").run(same)


def test_no_rows_are_refused(work: Work) -> None:
    with pytest.raises(DataError, match="wanted calibration rows, got none"):
        Int8(activations="static").run(replace(work, train=work.train.select([])))


def test_a_model_that_gives_no_numbers_is_refused(work: Work) -> None:
    with torch.no_grad():
        next(work.model.get_submodule("text_encoder").parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="calibration: the model gives numbers that are not finite"):
        Int8(activations="static").run(work)


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="group is for activations=none"):
        parse_steps("int8:group=32")
    with pytest.raises(ConfigError, match="smooth is for activations=dynamic or static"):
        parse_steps("int8:smooth=0.5,activations=none")
