"""What must hold for every encoder, whatever it reads; those of pictures and texts are also in test_models."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, get_args

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from polymodal.encoders import (
    BertConfig,
    EncoderConfig,
    GridRegionsConfig,
    RecordConfig,
    RecordMlpConfig,
    RegionsConfig,
    SeriesConfig,
    TransformersConfig,
    WhisperConfig,
)
from polymodal.types import Record, Regions, Series, Text, Tokens
from tests.contracts import test_models as pictures_and_texts

LENGTHS = [2, 7, 5]  # real steps, regions or tokens of the three rows
SIZES: dict[str, Any] = {"width": 16, "heads": 2, "dropout": 0.0}
RECORD = {"numbers": 3, "categories": (4, 6), "unseen_dropout": 0.0}
VIT = {"kind": "vit", "image_size": 32, "patch_size": 16, "width": 12, "layers": 2, "heads": 2}
BERT = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONVOLUTIONS = {"conv_dim": [8, 8], "conv_kernel": [2, 2], "conv_stride": [1, 1], "num_feat_extract_layers": 2}
WAV2VEC = BERT | CONVOLUTIONS | {"num_conv_pos_embeddings": 3, "num_conv_pos_embedding_groups": 2}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "layerdrop": 0.0}


def huggingface(reads: str, model_type: str, settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    dropouts = ("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout", "attention_dropout")
    off = dict.fromkeys((*dropouts, "activation_dropout", "feat_proj_dropout"), 0.0)
    return {"reads": reads, "width": 16, "settings": {"model_type": model_type} | settings | off} | changes


CONFIGS: dict[str, Any] = {
    "record": RecordConfig.parse(RECORD | SIZES | {"layers": 2}, ""),
    "record, no layers": RecordConfig.parse(RECORD | SIZES | {"layers": 0}, ""),
    "record, numbers only": RecordConfig.parse(RECORD | SIZES | {"layers": 1, "categories": ()}, ""),
    "record, categories only": RecordConfig.parse(RECORD | SIZES | {"layers": 1, "numbers": 0}, ""),
    "record_mlp": RecordMlpConfig.parse(RECORD | {"width": 16, "dropout": 0.0}, ""),
    "series": SeriesConfig.parse(SIZES | {"channels": 4, "max_length": 12}, ""),
    "series, stride": SeriesConfig.parse(SIZES | {"channels": 4, "max_length": 12, "kernel": 5, "stride": 3}, ""),
    "regions, sum": RegionsConfig.parse(SIZES | {"feature_width": 6}, ""),
    "regions, mean": RegionsConfig.parse(SIZES | {"feature_width": 6, "style": "mean", "layers": 1}, ""),
    "regions, typed": RegionsConfig.parse(SIZES | {"feature_width": 6, "style": "typed", "layers": 1}, ""),
    "regions, global": RegionsConfig.parse(
        SIZES | {"feature_width": 6, "global_region": True, "pool": "first", "layers": 2}, ""
    ),
    "grid_regions, vit": GridRegionsConfig.parse(SIZES | {"backbone": VIT, "style": "mean", "layers": 1}, ""),
    "grid_regions, resnet": GridRegionsConfig.parse(
        SIZES | {"backbone": {"kind": "resnet", "layers": (1, 1, 1, 1), "stem": 4}, "global_region": True}, ""
    ),
    "whisper": WhisperConfig.parse(
        {"mels": 4, "max_length": 10, "width": 16, "layers": 2, "heads": 2, "dropout": 0.0}, ""
    ),
    "transformers, bert": TransformersConfig.parse(huggingface("text", "bert", BERT), ""),
    "transformers, bert pooler": TransformersConfig.parse(huggingface("text", "bert", BERT, pool="pooler"), ""),
    "transformers, vit": TransformersConfig.parse(
        huggingface("image", "vit", BERT | {"image_size": 32, "patch_size": 16}, pool="first"), ""
    ),
    "transformers, wav2vec2": TransformersConfig.parse(huggingface("audio", "wav2vec2", WAV2VEC | STABLE), ""),
}


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mask_of(length: int) -> Tensor:
    return torch.arange(length) < torch.tensor(LENGTHS)[:, None]


def given(config: Any, padding: int = 0) -> Any:
    """Three rows, different in content and length."""
    length = max(LENGTHS) + padding
    match config.reads:
        case "image":
            return drawn(3, 3, 32, 32)
        case "record":
            missing = torch.tensor([[True, False, False], [False, False, True], [False, False, False]])
            codes = torch.tensor([[0, 5], [1, 2], [3, 0]])
            return Record(
                drawn(3, 3)[:, : config.numbers], missing[:, : config.numbers], codes[:, : len(config.categories)]
            )
        case "regions":
            corners = torch.rand(3, max(LENGTHS), 2, 2, generator=torch.Generator().manual_seed(2)).sort(dim=2).values
            return Regions(
                padded(drawn(3, max(LENGTHS), 6), length), padded(corners.flatten(2), length), mask_of(length)
            )
        case "text":
            ids = torch.randint(1, 50, (3, max(LENGTHS)), generator=torch.Generator().manual_seed(3))
            return Text(padded(ids, length), mask_of(length))
        case _:
            channels = 1 if config.kind == "transformers" else 4
            return Series(padded(drawn(3, max(LENGTHS), channels), length), mask_of(length))


def padded(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values.new_zeros(3, length - values.shape[1], *values.shape[2:])], dim=1)


def row(inputs: Any, number: int) -> Any:
    """One row, its padding cut off."""
    if isinstance(inputs, Tensor):
        return inputs[number : number + 1]
    kept = [None if part is None else part[number : number + 1] for part in inputs]
    if not isinstance(inputs, Record):
        kept = [None if part is None else part[:, : LENGTHS[number]] for part in kept]
    return type(inputs)(*kept)


def built(config: Any) -> Any:
    torch.manual_seed(3)
    model = config.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # nothing may hide behind a start of 0 or 1
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


every = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
with_mask = pytest.mark.parametrize(
    "config",
    [config for config in CONFIGS.values() if config.reads not in ("image", "record")],
    ids=[name for name, config in CONFIGS.items() if config.reads not in ("image", "record")],
)


def kinds(union: Any) -> Iterator[str]:
    for inner in get_args(union):
        if hasattr(inner, "model_fields"):
            yield inner.model_fields["kind"].default
        elif get_args(inner):
            yield from kinds(inner)


def test_no_encoder_is_left_out() -> None:
    held = {config.kind for config in (*CONFIGS.values(), *pictures_and_texts.TOWERS.values())}
    assert set(kinds(EncoderConfig)) == held


@every
def test_json_and_back_gives_an_equal_config_of_the_union(config: Any) -> None:
    union: TypeAdapter[Any] = TypeAdapter(Annotated[EncoderConfig, None])
    assert union.validate_python(json.loads(json.dumps(config.to_dict()))) == config


@every
@torch.no_grad()
def test_the_shapes_are_those_of_the_contract(config: Any) -> None:
    tokens: Tokens = built(config)(given(config))
    assert tokens.pooled.shape == (3, config.width)
    assert tokens.sequence.shape == (*tokens.mask.shape, config.width)
    assert tokens.mask.dtype == torch.bool
    assert torch.isfinite(tokens.sequence).all()


@every
@torch.no_grad()
def test_a_row_of_a_batch_gives_what_it_gives_alone(config: Any) -> None:
    model, inputs = built(config), given(config)
    together = model(inputs)
    for number in range(3):
        alone = model(row(inputs, number))
        torch.testing.assert_close(alone.pooled[0], together.pooled[number], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            alone.sequence[alone.mask], together.sequence[number][together.mask[number]], rtol=1e-4, atol=1e-5
        )


@every
@torch.no_grad()
def test_the_rows_are_told_apart(config: Any) -> None:
    pooled = built(config)(given(config)).pooled
    assert (pooled[0] - pooled[1]).abs().max() > 1e-3
    assert (pooled[1] - pooled[2]).abs().max() > 1e-3


@with_mask
@torch.no_grad()
def test_padding_and_what_stands_in_it_change_nothing(config: Any) -> None:
    model, wide = built(config), given(config, padding=3)
    garbage = [part if part.dtype == torch.bool else spoiled(part, wide.mask) for part in wide if part is not None]
    for same in (wide, type(wide)(*garbage)):
        torch.testing.assert_close(model(same).pooled, model(given(config)).pooled, rtol=1e-4, atol=1e-5)


def spoiled(values: Tensor, mask: Tensor) -> Tensor:
    gone = ~mask.view(*mask.shape, *(1,) * (values.ndim - 2))
    return values.masked_fill(gone, torch.nan if values.is_floating_point() else 5)


@with_mask
@torch.no_grad()
def test_an_empty_row_gives_numbers(config: Any) -> None:
    model, inputs = built(config), given(config)
    for mask in (torch.zeros_like(inputs.mask), inputs.mask & (torch.arange(max(LENGTHS)) < 1)):
        tokens = model(inputs._replace(mask=mask))
        assert torch.isfinite(tokens.pooled).all()
        assert torch.isfinite(tokens.sequence).all()


@every
def test_groups_hold_every_weight_once_from_input_to_output(config: Any) -> None:
    model = built(config)
    groups = model.layer_groups()
    held = [id(parameter) for group in groups for parameter in group]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters()}
    if getattr(config, "layers", 0):
        assert len(groups) > config.layers


@every
def test_every_weight_gets_a_gradient(config: Any) -> None:
    model = built(config).train()
    tokens = model(given(config))
    loss = (tokens.pooled * drawn(*tokens.pooled.shape)).sum()
    (loss + (tokens.sequence * drawn(*tokens.sequence.shape, seed=5))[tokens.mask].sum()).backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and (parameter.grad is None or not torch.isfinite(parameter.grad).all() or not parameter.grad.any())
    ]
    assert without == []


@every
@torch.no_grad()
def test_a_model_built_without_memory_takes_the_weights(config: Any) -> None:
    model = built(config)
    with torch.device("meta"):
        again = config.build()
    again.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(again.eval()(given(config)).pooled, model(given(config)).pooled)


@every
@torch.no_grad()
def test_bfloat16_is_near_float32(config: Any) -> None:
    model, inputs = built(config), given(config)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(inputs).pooled.float()
    assert torch.nn.functional.cosine_similarity(rough, model(inputs).pooled, dim=-1).min() > 0.99


def test_every_encoder_says_what_it_reads() -> None:
    assert BertConfig.reads == "text"
    assert {config.reads for config in CONFIGS.values()} == {"image", "text", "record", "series", "audio", "regions"}
