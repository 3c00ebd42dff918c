"""transformers' ViTModel on disk."""

from typing import Any

from polymodal.encoders.vit import VitConfig
from polymodal.models.published.hf_bert import ACTIVATIONS, THEIR_ACTIVATIONS
from polymodal.models.published.keymap import BlockNames, Entry, affine, same

DEFAULTS: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.0,
}
BLOCK = BlockNames(
    norm1="layernorm_before",
    qkv=("attention.attention.query.", "attention.attention.key.", "attention.attention.value."),
    out="attention.output.dense",
    norm2="layernorm_after",
    fc1="intermediate.dense",
    fc2="output.dense",
)
HEADS = ("classifier.",)


def config_of(settings: dict[str, Any], pool: str) -> VitConfig:
    read = DEFAULTS | settings
    return VitConfig.parse(
        {
            "image_size": read["image_size"],
            "patch_size": read["patch_size"],
            "width": read["hidden_size"],
            "layers": read["num_hidden_layers"],
            "heads": read["num_attention_heads"],
            "mlp_width": read["intermediate_size"],
            "activation": ACTIVATIONS.get(read["hidden_act"], read["hidden_act"]),
            "eps": read["layer_norm_eps"],
            "patch_bias": True,
            "pre_norm": False,
            "pool": pool,
            "dropout": read["hidden_dropout_prob"],
        },
        "config.json",
    )


def settings_of(config: VitConfig) -> dict[str, Any]:
    return {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width or 4 * config.width,
        "hidden_act": THEIR_ACTIVATIONS[config.activation],
        "layer_norm_eps": config.eps,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
    }


def entries(config: VitConfig) -> list[Entry]:
    found = [
        same("class_token", "embeddings.cls_token", leading=2),
        same("positions", "embeddings.position_embeddings", leading=1),
        *affine("patches.projection", "embeddings.patch_embeddings.projection"),
        *BLOCK.entries("blocks", "encoder.layer", config.layers),
        *affine("post_norm", "layernorm"),
    ]
    return found + (affine("head.0", "pooler.dense") if config.pool == "tanh" else [])
