"""Gated unit, FiLM and attention pooling: fusions of vectors that weigh."""

import math
from typing import Any

import pytest
import torch

from polymodal.errors import ConfigError
from polymodal.fusion.attention_pool import AttentionPoolConfig
from polymodal.fusion.film import FilmConfig
from polymodal.fusion.gated import GatedConfig
from polymodal.fusion.missing import Missing
from polymodal.types import Tokens
from tests.fusion.small import built, here, join, tokens


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def vector(*numbers: float) -> Tokens:
    pooled = torch.tensor([numbers])
    return Tokens(pooled[:, None], torch.ones(1, 1).bool(), pooled)


@torch.no_grad()
def test_two_inputs_share_one_gate() -> None:
    fusion: Any = GatedConfig(width=1).build({"a": 1, "b": 2})
    fusion.project.linears["a"].weight.copy_(torch.tensor([[0.5]]))
    fusion.project.linears["b"].weight.copy_(torch.tensor([[1.0, -1.0]]))
    fusion.gate.weight.copy_(torch.tensor([[0.1, 0.2, 0.3]]))
    given = {"a": vector(2.0), "b": vector(0.7, 0.4)}
    gate = sigmoid(0.1 * 2 + 0.2 * 0.7 + 0.3 * 0.4)
    fused = fusion(given, here(given), maps=True)
    assert fused.pooled.item() == pytest.approx(gate * math.tanh(1.0) + (1 - gate) * math.tanh(0.3))
    assert fused.maps["gates"].flatten().tolist() == pytest.approx([gate, 1 - gate])


@torch.no_grad()
def test_three_inputs_have_a_gate_each_and_these_do_not_add_up_to_one() -> None:
    config = GatedConfig(width=5)
    parts, given = built(config), tokens(config)
    fused = join(parts, given, here(given, {"text": [1]}), maps=True)
    gates = fused.maps["gates"]
    together = torch.cat([one.pooled for one in given.values()], 1)
    wanted = (together @ parts[0].gate.weight.T).sigmoid().view(3, 3, 5)
    torch.testing.assert_close(gates[0], wanted[0])
    assert not gates[1, 1].any()
    states = torch.stack(
        [(one.pooled @ parts[0].project.linears[name].weight.T).tanh() for name, one in given.items()], 1
    )
    torch.testing.assert_close(fused.pooled[0], (wanted * states).sum(1)[0])
    assert (gates[0].sum(0) - 1).abs().max() > 0.1


@torch.no_grad()
def test_the_only_one_of_two_inputs_passes_the_gate_whole() -> None:
    widths = {"image": 8, "text": 4}
    fusion: Any = GatedConfig(width=5).build(widths)
    given = {name: one for name, one in tokens(GatedConfig()).items() if name in widths}
    present = here(given, {"text": [0, 1, 2]})
    wanted = (given["image"].pooled @ fusion.project.linears["image"].weight.T).tanh()
    torch.testing.assert_close(join((fusion, Missing(widths)), given, present).pooled, wanted)


@torch.no_grad()
def test_film_starts_as_the_identity() -> None:
    config = FilmConfig(condition="text", width=5)
    fusion = config.build({"image": 8, "text": 4})
    given = {name: one for name, one in tokens(config).items() if name != "record"}
    fused = fusion(given, here(given), maps=True)
    project = fusion.project.linears["image"]
    torch.testing.assert_close(fused.pooled, project(given["image"].pooled))
    torch.testing.assert_close(fused.tokens["image"].sequence, project(given["image"].sequence))
    assert fused.tokens["text"] is given["text"]
    assert fused.maps["scale"].eq(1).all()
    assert fused.maps["shift"].eq(0).all()


@torch.no_grad()
def test_film_scales_and_shifts_vectors_and_tokens_by_the_condition() -> None:
    config = FilmConfig(width=5)  # the last input, the record, conditions image and text
    parts, given = built(config), tokens(config)
    fused = join(parts, given, here(given, {"record": [2]}), maps=True)
    scale, shift = fused.maps["scale"], fused.maps["shift"]
    for place, name in enumerate(("image", "text")):
        projected = parts[0].project.linears[name](given[name].sequence)
        wanted = projected * scale[:, place, None] + shift[:, place, None]
        torch.testing.assert_close(fused.tokens[name].sequence, wanted)
    vectors = parts[0].project.vectors(given)
    torch.testing.assert_close(fused.pooled, (vectors * scale + shift).mean(1))
    torch.testing.assert_close(fused.pooled[2], vectors.mean(1)[2])  # no condition, no change
    assert (scale[0] - scale[1]).abs().max() > 1e-2


@torch.no_grad()
def test_attention_pooling_is_a_softmax_of_the_querys_scores() -> None:
    config = AttentionPoolConfig(width=5)
    (fusion, missing), given = built(config), tokens(config)
    fused = join((fusion, missing), given, here(given, {"record": [0]}), maps=True)
    vectors = fusion.project.vectors(given)
    scores = [(fusion.query @ fusion.key.weight @ vectors[0, m]).item() / math.sqrt(5) for m in range(2)]
    share = math.exp(scores[0]) / sum(map(math.exp, scores))
    assert fused.maps["weights"][0].tolist() == pytest.approx([share, 1 - share, 0], abs=1e-6)
    torch.testing.assert_close(fused.pooled[0], share * vectors[0, 0] + (1 - share) * vectors[0, 1])


@torch.no_grad()
def test_attention_pooling_over_one_input_is_its_projection() -> None:
    config = AttentionPoolConfig(width=5)
    parts, given = built(config), tokens(config)
    alone = join(parts, given, here(given, {"text": [0, 1, 2], "record": [0, 1, 2]}))
    torch.testing.assert_close(alone.pooled, parts[0].project.vectors(given)[:, 0])


def test_a_gate_needs_something_to_choose_between() -> None:
    for config in (GatedConfig(), FilmConfig()):
        with pytest.raises(ConfigError, match=f'"{config.kind}" must have at least 2 inputs, got image; .* use "late"'):
            config.build({"image": 3})


def test_a_condition_that_is_no_input_is_refused() -> None:
    with pytest.raises(ConfigError, match='fusion "film": condition must be one of image, text, got "sound"'):
        FilmConfig(condition="sound").build({"image": 3, "text": 3})
