import math

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from polymodal.errors import ConfigError
from polymodal.fusion.adversarial import AlignedConfig, modality_loss, reverse_gradient
from polymodal.fusion.attention_pool import AttentionPoolConfig
from polymodal.fusion.early import EarlyConfig
from polymodal.fusion.hybrid import HybridConfig
from polymodal.fusion.late import LateConfig
from polymodal.types import Tokens
from tests.fusion.small import built, here, join, tokens

HYBRID = HybridConfig(early=EarlyConfig(width=8, layers=1, heads=2), late=LateConfig(width=8))


@torch.no_grad()
def test_hybrid_is_the_share_of_early_and_the_rest_of_late() -> None:
    (fusion, missing), given = built(HYBRID), tokens(HYBRID)
    fusion.theta.fill_(math.log(3))
    fused = join((fusion, missing), given, maps=True)
    early, late = (join((branch, missing), given, maps=True) for branch in (fusion.early, fusion.late))
    torch.testing.assert_close(fused.pooled, 0.75 * early.pooled + 0.25 * late.pooled)
    assert fused.maps["share"].tolist() == pytest.approx([0.75] * 3)
    assert fused.maps.keys() == {"share", "early.attention.0", "late.weights"}
    assert torch.equal(fused.maps["late.weights"], late.maps["weights"])
    assert torch.equal(fused.tokens["text"].sequence, early.tokens["text"].sequence)


def test_hybrid_starts_at_halves_and_takes_branches_of_two_widths() -> None:
    fusion = HybridConfig(early=HYBRID.early, late=LateConfig(width=3)).build({"image": 8, "text": 4})
    assert fusion.theta.sigmoid().item() == 0.5
    assert fusion.width == 8


def test_a_reversed_gradient_has_the_other_sign() -> None:
    x = torch.randn(5, requires_grad=True)
    y = reverse_gradient(x, 0.5)
    torch.testing.assert_close(y, x)
    (y * torch.arange(5)).sum().backward()
    torch.testing.assert_close(x.grad, -0.5 * torch.arange(5.0))


def test_the_discriminators_logits_come_in_training_and_when_asked_for() -> None:
    config = AlignedConfig(inner=AttentionPoolConfig(width=5), common=6)
    parts, given = built(config), tokens(config)
    assert join(parts, given).maps == {}
    assert join(parts, given, maps=True).maps.keys() == {"weights", "modality_logits"}
    parts[0].train()
    assert join(parts, given).maps["modality_logits"].shape == (3, 3, 3)


def test_telling_inputs_apart_in_nats() -> None:
    logits = torch.zeros(2, 2, 2)
    present = {"image": torch.tensor([True, True]), "text": torch.tensor([True, False])}
    assert modality_loss(logits, present).item() == pytest.approx(math.log(2))
    logits[0, 0, 0] = logits[1, 1, 0] = 2.0  # sure and right about row 0's image; row 1's text is not asked about
    wanted = (math.log(1 + math.exp(-2)) + 2 * math.log(2)) / 3
    assert modality_loss(logits, present).item() == pytest.approx(wanted)
    assert modality_loss(logits, {name: torch.zeros(2).bool() for name in present}).item() == 0


def batch() -> tuple[dict[str, Tokens], torch.Tensor]:
    """Two inputs that both know the answer and are told apart at a glance."""
    answer = torch.randint(2, (64,)).float()
    given = {}
    for name, shift in (("image", 2.0), ("text", -2.0)):
        vector = torch.randn(64, 3) * 0.5 + shift
        vector[:, 0] += 2 * answer - 1
        given[name] = Tokens(vector[:, None], torch.ones(64, 1).bool(), vector)
    return given, answer


def test_the_inputs_climb_where_the_discriminator_descends() -> None:
    torch.manual_seed(0)
    fusion = AlignedConfig(common=4, hidden=16, strength=0.5).build({"image": 3, "text": 3})
    given, _ = batch()
    modality_loss(fusion(given, here(given)).maps["modality_logits"], here(given)).backward()
    got = {name: weight.grad for name, weight in fusion.named_parameters()}
    fusion.zero_grad()
    modality_loss(fusion.discriminator(fusion.project.vectors(given)), here(given)).backward()
    for part, sign in (("project", -0.5), ("discriminator", 1.0)):
        for name, weight in getattr(fusion, part).named_parameters(prefix=part):
            assert weight.grad is not None
            torch.testing.assert_close(got[name], sign * weight.grad)


def told_apart(strength: float) -> float:
    """Share of vectors whose input the discriminator names after training beside a task, 0.5 to 1."""
    torch.manual_seed(0)
    fusion = AlignedConfig(inner=LateConfig(width=4), common=4, hidden=16, strength=strength).build(
        {"image": 3, "text": 3}
    )
    head = nn.Linear(4, 1)
    optimizer = torch.optim.Adam([*fusion.parameters(), *head.parameters()], 3e-3)
    shares: list[float] = []
    for _ in range(200):
        given, answer = batch()
        fused = fusion(given, here(given))
        logits = fused.maps["modality_logits"]
        shares.append((logits.argmax(2) == torch.arange(2)).float().mean().item())
        task = binary_cross_entropy_with_logits(head(fused.pooled)[:, 0], answer)
        optimizer.zero_grad()
        (task + modality_loss(logits, here(given))).backward()
        optimizer.step()
    return sum(shares[-50:]) / 50


def test_inputs_learn_to_look_alike() -> None:
    assert told_apart(1e-4) > 0.99
    assert told_apart(0.1) < 0.7


def test_alignment_needs_two_inputs() -> None:
    with pytest.raises(ConfigError, match='fusion "aligned" must have at least 2 inputs, got image'):
        AlignedConfig().build({"image": 3})
