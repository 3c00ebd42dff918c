"""ALBEF as a composition: aligned by contrast before the fusion, matched after it."""

import torch
from pydantic import TypeAdapter

from polymodal.encoders.vit import VitConfig
from polymodal.features import Features
from polymodal.layers.skeleton import skeleton
from polymodal.models.albef import albef_base, albef_tiny
from polymodal.models.multimodal import Multimodal
from polymodal.objectives.joint import JointObjectiveConfig, JointStep, build_objectives
from polymodal.types import Batch
from tests.objectives import joint_toy

INPUTS = {"image": {"kind": "image", "column": "image"}, "text": {"kind": "text", "columns": ["text"]}}
LOSSES = [
    {"kind": "contrastive"},
    {"kind": "masked_text", "rate": 0.5},
    {"kind": "matching", "contrast": "contrastive"},
]


def test_a_step_of_its_three_losses_reaches_every_weight() -> None:
    known = Features.parse({"inputs": INPUTS}, "features")
    parsed = [TypeAdapter(JointObjectiveConfig).validate_python(loss) for loss in LOSSES]
    joint = build_objectives(parsed, known, {"text": joint_toy.tokenizer()})
    torch.manual_seed(0)
    model: Multimodal = albef_tiny(vocab_size=300, image_size=16).build()
    there = torch.ones(6, dtype=torch.bool)
    batch = Batch({"image": joint_toy.pixels(), "text": joint_toy.text()}, {}, {}, {}, torch.arange(6))
    batch = batch._replace(present=dict.fromkeys(INPUTS, there))
    result = joint(JointStep(model, batch, torch.Generator().manual_seed(5)))
    result.loss.backward()
    assert {"contrastive", "masked_text", "matching"} <= result.log.keys()
    silent = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    assert silent == {"missing.learned.image", "missing.learned.text"}


@torch.no_grad()
def test_only_the_fusion_lets_the_text_see_the_picture() -> None:
    torch.manual_seed(0)
    model: Multimodal = albef_tiny(vocab_size=300, image_size=16).build().eval()
    pixels, text = joint_toy.pixels(), joint_toy.text()
    one = model({"image": pixels, "text": text}, maps=True)
    other = model({"image": pixels.flip(0), "text": text})
    assert torch.equal(one.tokens["text"].sequence, other.tokens["text"].sequence)
    assert not torch.allclose(one.fused.pooled, other.fused.pooled, atol=1e-4)
    assert set(one.fused.maps) == {"text->image.0", "text->image.1"}


def test_the_published_sizes() -> None:
    config = albef_base()
    model = skeleton(config.build)
    assert isinstance(config.encoders["image"], VitConfig)
    assert (len(model.encoders["text"].blocks), len(model.fusion.blocks)) == (6, 6)  # type: ignore[arg-type]
    text = sum(weight.numel() for name, weight in model.named_parameters() if name.startswith(("encoders.text", "fus")))
    # BERT-base without its pooler, and in six layers attention to the picture with its LayerNorm.
    assert text == 109_482_240 - (768 * 768 + 768) + 6 * (4 * (768 * 768 + 768) + 2 * 768)
