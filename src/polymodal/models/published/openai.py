"""OpenAI's CLIP on disk: one flat state dict, from whose shapes the config follows (clip/model.py `build_model`)."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from polymodal.encoders.clip_resnet import ClipResnetConfig
from polymodal.encoders.text_transformer import TextTransformerConfig
from polymodal.encoders.vit import VitConfig
from polymodal.errors import ArtifactError
from polymodal.layers.skeleton import skeleton
from polymodal.models.clip import ClipConfig
from polymodal.models.published.keymap import BlockNames, Entry, affine, same

BLOCK = BlockNames(
    norm1="ln_1", qkv=("attn.in_proj_",), out="attn.out_proj", norm2="ln_2", fc1="mlp.c_fc", fc2="mlp.c_proj"
)
SCALARS = ("input_resolution", "context_length", "vocab_size")  # of the TorchScript files; they follow from the shapes


def is_openai(state: Mapping[str, Tensor]) -> bool:
    return {"text_projection", "positional_embedding", "logit_scale"} <= state.keys()


def config_of(state: Mapping[str, Tensor]) -> ClipConfig:
    """The config, from shapes. Heads are 64 wide, the activation QuickGELU: shapes do not tell, all releases are so."""
    try:
        vocab_size, width = state["token_embedding.weight"].shape
        shared = state["text_projection"].shape[1]
        text = {
            "kind": "text_transformer",
            "vocab_size": vocab_size,
            "max_length": len(state["positional_embedding"]),
            "width": width,
            "layers": _count(state, r"transformer\.resblocks\.(\d+)\."),
            "heads": max(1, width // 64),
            "mlp_width": len(state["transformer.resblocks.0.mlp.c_fc.weight"]),
            "pool": "eos",
        }
        is_vit = "visual.proj" in state
        image = _vit(state) if is_vit else _resnet(state, shared)
    except (KeyError, ValueError, IndexError) as error:
        raise ArtifactError(f"OpenAI CLIP: the weights do not tell the config, for want of {error}") from None
    data = {"image": image, "text": text, "width": shared, "image_projection": "linear" if is_vit else None}
    return ClipConfig.parse(data, "OpenAI CLIP")


def _vit(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, patch_size, _ = state["visual.conv1.weight"].shape
    side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
    return {
        "kind": "vit",
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "width": width,
        "layers": _count(state, r"visual\.transformer\.resblocks\.(\d+)\."),
        "heads": max(1, width // 64),
        "mlp_width": len(state["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
    }


def _resnet(state: Mapping[str, Tensor], shared: int) -> dict[str, Any]:
    side = round((len(state["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
    return {
        "kind": "clip_resnet",
        "image_size": side * 32,
        "layers": [_count(state, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)],
        "stem": len(state["visual.conv3.weight"]),
        "width": shared,
    }


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for key in state if (found := re.match(pattern, key))})


def refusal(config: ClipConfig, end: int | None) -> str | None:
    """Why a config has no place in this layout, or None.

    Args:
        end: id of the token that ends the tokenizer's texts, None when there is no tokenizer.
    """
    text = config.text
    if not isinstance(text, TextTransformerConfig) or text.head or not text.causal:
        return "the text tower is not CLIP's"
    if isinstance(config.image, VitConfig):
        image = config.image
        if image.patch_bias or not (image.pre_norm and image.class_token) or image.pool != "cls":
            return "the image tower is not CLIP's"
        if config.image_projection != "linear":
            return "the image projection is not linear"
        if max(1, image.width // 64) != image.heads:
            return f"image heads must be 64 wide, got {image.heads} for width {image.width}"
        if (image.activation, image.eps) != ("quick_gelu", 1e-5):
            return "the image tower's activation must be quick_gelu and its eps 1e-5"
    elif not isinstance(config.image, ClipResnetConfig):
        return "the image tower is not CLIP's"
    elif config.image_projection is not None:
        return "a residual network's pooling is its projection"
    if max(1, text.width // 64) != text.heads:
        return f"text heads must be 64 wide, got {text.heads} for width {text.width}"
    if (text.activation, text.eps) != ("quick_gelu", 1e-5):
        return "the text tower's activation must be quick_gelu and its eps 1e-5"
    read_at = end if text.pool == "last" else text.eos_token_id
    if (text.pool, read_at) != ("eos", None) and read_at != text.vocab_size - 1:
        return f"texts are read at the largest id, {text.vocab_size - 1}, but here they end with {read_at}"
    if config.width is None or config.text_projection != "linear" or config.bias is not None:
        return "it needs a linear text projection and no bias"
    return None


def entries(config: ClipConfig) -> list[Entry]:
    assert isinstance(config.text, TextTransformerConfig)
    text = [
        same("text_encoder.embedding.weight", "token_embedding.weight"),
        same("text_encoder.positions", "positional_embedding"),
        *BLOCK.entries("text_encoder.blocks", "transformer.resblocks", config.text.layers),
        *affine("text_encoder.post_norm", "ln_final"),
        same("text_projection.weight", "text_projection", transpose=True),
        same("log_scale", "logit_scale"),
    ]
    if isinstance(config.image, VitConfig):
        return text + _vit_entries(config.image)
    assert isinstance(config.image, ClipResnetConfig)
    return text + _resnet_entries(config.image)


def _vit_entries(config: VitConfig) -> list[Entry]:
    return [
        same("image_encoder.class_token", "visual.class_embedding"),
        same("image_encoder.positions", "visual.positional_embedding"),
        same("image_encoder.patches.projection.weight", "visual.conv1.weight"),
        *affine("image_encoder.pre_norm", "visual.ln_pre"),
        *BLOCK.entries("image_encoder.blocks", "visual.transformer.resblocks", config.layers),
        *affine("image_encoder.post_norm", "visual.ln_post"),
        same("image_projection.weight", "visual.proj", transpose=True),
    ]


def _resnet_entries(config: ClipResnetConfig) -> list[Entry]:
    """Our residual network has OpenAI's names, so its own state dict says them all."""
    return [same(f"image_encoder.{name}", f"visual.{name}") for name in skeleton(config.build).state_dict()]
