"""What must hold for every model and tower in `models/names.py`, at a size that a test can afford."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymodal.encoders import BertConfig, LstmConfig, TextTransformerConfig, VitConfig
from polymodal.models.clip import Clip, ClipConfig
from polymodal.models.names import ENCODERS, MODELS
from polymodal.types import Text
from tests import tiny

SIZE = 64  # pixels: the last grid of the residual networks is 2 x 2
VOCAB = 50
SMALL: dict[str, dict[str, Any]] = {
    "vit": {"image_size": SIZE, "patch_size": 16, "width": 16, "layers": 2, "heads": 2, "mlp_width": None},
    "clip_resnet": {"image_size": SIZE, "layers": (1, 1, 1, 1), "stem": 4, "width": 16},
    "resnet": {"image_size": SIZE, "layers": (1, 1, 1, 1), "stem": 4},
    "efficientnet_lite": {"image_size": SIZE, "width_multiplier": 0.2, "depth_multiplier": 0.5, "head_width": 16},
    "text_transformer": {"vocab_size": VOCAB, "max_length": 8, "width": 16, "layers": 2, "heads": 2, "mlp_width": None},
    "bert": {"vocab_size": VOCAB, "max_length": 8, "width": 16, "layers": 2, "heads": 2},
    "lstm": {"vocab_size": VOCAB, "width": 16, "embedding_width": 12},
}


def small_tower(config: Any) -> Any:
    changes = SMALL[config.kind] | ({"eos_token_id": VOCAB - 1} if getattr(config, "eos_token_id", None) else {})
    return type(config).parse(config.to_dict() | changes, "small")


def small(config: ClipConfig) -> ClipConfig:
    """The same composition with every tower at its smallest."""
    image, text = small_tower(config.image), small_tower(config.text)
    width = None if config.width is None else image.width if config.image_projection is None else 8
    changes = {"image": image.to_dict(), "text": text.to_dict(), "width": width}
    return ClipConfig.parse(config.to_dict() | changes, "small")


def distinct(configs: dict[str, Any]) -> dict[str, Any]:
    """One name for each different small config: sizes that only differ in the original are one test."""
    seen: dict[str, Any] = {}
    for name, config in configs.items():
        if config not in seen.values():
            seen[name] = config
    return seen


CLIPS = distinct({name: small(config) for name, config in MODELS.items()})
TOWERS = distinct(
    {name: small_tower(config) for name, config in ENCODERS.items() if config.reads != "audio"}  # see test_encoders
    | {f"{name}.image": small(config).image for name, config in MODELS.items()}
    | {f"{name}.text": small(config).text for name, config in MODELS.items()}
    | {
        "vit, mean": VitConfig.parse(SMALL["vit"] | {"pool": "mean"}, ""),
        "vit, tanh": VitConfig.parse(SMALL["vit"] | {"pool": "tanh"}, ""),
        "bert, pooler": BertConfig.parse(SMALL["bert"] | {"pool": "pooler"}, ""),
        "text, largest id": TextTransformerConfig.parse(SMALL["text_transformer"] | {"pool": "eos"}, ""),
        "text, end id": TextTransformerConfig.parse(
            SMALL["text_transformer"] | {"pool": "eos", "eos_token_id": VOCAB - 1}, ""
        ),
        "lstm, two layers": LstmConfig.parse(SMALL["lstm"] | {"layers": 2}, ""),
    }
)


def built(config: Any) -> Any:
    torch.manual_seed(3)
    model = config.build()
    draw = torch.Generator().manual_seed(4)
    for module in model.modules():  # gains of zero (bn3 of CLIP's ResNet) would hide what stands behind them
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=draw)
            nn.init.uniform_(module.bias, -0.5, 0.5, generator=draw)
    settle(model)
    return model.eval()


@torch.no_grad()
def settle(model: Any) -> None:
    """Give batch norms the statistics of these pictures: at their start the differences between pictures fade away."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        (model.image_encoder if isinstance(model, Clip) else model).train()(pixels(16))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def pixels(count: int = 3) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def text(padding: int = 0) -> Text:
    """Texts of two, five and four tokens that end with the largest id."""
    rows = [[7, VOCAB - 1], [9, 3, 30, 12, VOCAB - 1], [3, 9, 4, VOCAB - 1]]
    length = max(map(len, rows)) + padding
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return Text(ids, torch.tensor([[place < len(row) for place in range(length)] for row in rows]))


def rows_of(text: Text, rows: slice) -> Text:
    length = int(text.mask[rows].sum(1).max())
    return Text(text.ids[rows, :length], text.mask[rows, :length])


def given(config: Any) -> Any:
    return pixels() if hasattr(config, "image_size") else text()


def row(inputs: Any, number: int) -> Any:
    rows = slice(number, number + 1)
    return rows_of(inputs, rows) if isinstance(inputs, Text) else inputs[rows]


tower = pytest.mark.parametrize("config", TOWERS.values(), ids=TOWERS.keys())
clip = pytest.mark.parametrize("config", CLIPS.values(), ids=CLIPS.keys())


@pytest.mark.parametrize("name", [*MODELS, *ENCODERS])
def test_json_and_back_gives_an_equal_config(name: str) -> None:
    config = MODELS.get(name) or ENCODERS[name]
    assert type(config).parse(json.loads(json.dumps(config.to_dict())), name) == config


@tower
@torch.no_grad()
def test_pooled_has_the_width_that_the_config_says(config: Any) -> None:
    inputs = given(config)
    tokens = built(config)(inputs)
    assert tokens.pooled.shape == (3, config.width)
    assert tokens.sequence.shape == (*tokens.mask.shape, config.width)
    assert tokens.mask.dtype == torch.bool


@tower
@torch.no_grad()
def test_a_row_of_a_batch_gives_what_it_gives_alone(config: Any) -> None:
    model, inputs = built(config), given(config)
    together = model(inputs).pooled
    for number in range(3):
        torch.testing.assert_close(model(row(inputs, number)).pooled[0], together[number], rtol=1e-5, atol=1e-5)


@tower
@torch.no_grad()
def test_the_rows_are_told_apart(config: Any) -> None:
    pooled = built(config)(given(config)).pooled
    assert (pooled[0] - pooled[1]).abs().max() > 1e-3
    assert (pooled[1] - pooled[2]).abs().max() > 1e-3


@tower
@torch.no_grad()
def test_eval_twice_is_equal(config: Any) -> None:
    model, inputs = built(config), given(config)
    assert torch.equal(model(inputs).pooled, model(inputs).pooled)


@tower
@torch.no_grad()
def test_padding_and_what_stands_in_it_change_nothing(config: Any) -> None:
    if hasattr(config, "image_size"):
        return
    model = built(config)
    padded = text(padding=3)
    other = Text(torch.where(padded.mask, padded.ids, 5), padded.mask)
    for same in (padded, other):
        torch.testing.assert_close(model(same).pooled, model(text()).pooled, rtol=1e-5, atol=1e-5)


@tower
@torch.no_grad()
def test_a_text_of_nothing_gives_numbers(config: Any) -> None:
    if hasattr(config, "image_size"):
        return
    nothing = text()._replace(mask=torch.zeros_like(text().mask))
    tokens = built(config)(nothing)
    assert torch.isfinite(tokens.pooled).all()
    assert torch.isfinite(tokens.sequence).all()


@tower
def test_groups_hold_every_weight_once_from_input_to_output(config: Any) -> None:
    model = built(config)
    groups = model.layer_groups()
    held = [id(parameter) for group in groups for parameter in group]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters()}
    assert len(groups) >= 2


@tower
@torch.no_grad()
def test_bfloat16_is_near_float32(config: Any) -> None:
    model, inputs = built(config), given(config)
    exact = model(inputs).pooled
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(inputs).pooled.float()
    assert torch.nn.functional.cosine_similarity(rough, exact, dim=-1).min() > 0.99


@clip
def test_every_weight_gets_a_gradient(config: ClipConfig) -> None:
    model = built(config).train()
    out = model(pixels(), text())
    logits = out.scale * out.image @ out.text.T + (0.0 if out.bias is None else out.bias)
    signs = 2 * torch.eye(3) - 1
    (
        -torch.nn.functional.logsigmoid(signs * logits)
    ).sum().backward()  # SigLIP's loss: it sees a bias, a softmax does not
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not torch.isfinite(parameter.grad).all() or not parameter.grad.any()
    ]
    assert without == []


@clip
@torch.no_grad()
def test_vectors_have_unit_length_and_the_shared_width(config: ClipConfig) -> None:
    out = built(config)(pixels(), text())
    for vectors in (out.image, out.text):
        assert vectors.shape == (3, config.shared_width)
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    assert out.scale.item() == pytest.approx(1 / config.temperature)


@clip
@torch.no_grad()
def test_state_loads_strictly_and_gives_equal_vectors(config: ClipConfig) -> None:
    model = built(config)
    torch.manual_seed(99)
    again: Clip = config.build().eval()
    assert not torch.equal(again.embed_image(pixels()), model.embed_image(pixels()))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.embed_image(pixels()), model.embed_image(pixels()))
    assert torch.equal(again.embed_text(text()), model.embed_text(text()))


@clip
def test_gradient_checkpointing_changes_memory_only(config: ClipConfig) -> None:
    def gradients(checkpoint: bool) -> list[Tensor]:
        model = built(config)
        for module in model.modules():
            if hasattr(module, "checkpoint"):
                module.checkpoint = checkpoint
        out = model(pixels(), text())
        (out.image * out.text).sum().backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    for plain, recomputed in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["vit", "clip_resnet", "resnet", "efficientnet_lite"])
@torch.no_grad()
def test_pictures_of_another_size_are_read(kind: str) -> None:
    config = next(config for config in TOWERS.values() if config.kind == kind)
    wide = torch.randn(2, 3, 2 * SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    assert torch.isfinite(built(config)(wide).pooled).all()


def test_names_of_weights_do_not_change_unnoticed() -> None:
    """Artifacts and checkpoints of today must load tomorrow."""
    assert sorted(tiny.clip().state_dict())[:12] == [
        "image_encoder.blocks.0.attention.out.bias",
        "image_encoder.blocks.0.attention.out.weight",
        "image_encoder.blocks.0.attention.qkv.bias",
        "image_encoder.blocks.0.attention.qkv.weight",
        "image_encoder.blocks.0.mlp.fc1.bias",
        "image_encoder.blocks.0.mlp.fc1.weight",
        "image_encoder.blocks.0.mlp.fc2.bias",
        "image_encoder.blocks.0.mlp.fc2.weight",
        "image_encoder.blocks.0.norm1.bias",
        "image_encoder.blocks.0.norm1.weight",
        "image_encoder.blocks.0.norm2.bias",
        "image_encoder.blocks.0.norm2.weight",
    ]
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in tiny.clip().state_dict() if "." in name} == {
        "image_encoder.blocks",
        "image_encoder.class_token",
        "image_encoder.patches",
        "image_encoder.positions",
        "image_encoder.post_norm",
        "image_encoder.pre_norm",
        "image_projection.weight",
        "text_encoder.blocks",
        "text_encoder.embedding",
        "text_encoder.positions",
        "text_encoder.post_norm",
        "text_projection.weight",
    }
