"""transformers' CLIPModel, ChineseCLIPModel and SiglipModel on disk: two towers, and what joins them."""

from typing import Any, Literal

from polymodal.encoders.bert import BertConfig
from polymodal.encoders.text_transformer import TextTransformerConfig
from polymodal.encoders.vit import VitConfig
from polymodal.models.clip import ClipConfig
from polymodal.models.published import hf_bert
from polymodal.models.published.hf_bert import ACTIVATIONS, THEIR_ACTIVATIONS
from polymodal.models.published.keymap import BlockNames, Entry, affine, same

Family = Literal["clip", "chinese_clip", "siglip"]

VISION: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 32,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
}
TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "attention_dropout": 0.0,
    "eos_token_id": 49407,
}
SIGLIP = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "num_attention_heads": 12}
SIGLIP_VISION = VISION | SIGLIP | {"patch_size": 16}
SIGLIP_TEXT = (
    TEXT
    | SIGLIP
    | {
        "vocab_size": 32000,
        "max_position_embeddings": 64,
        "hidden_size": 768,
        "intermediate_size": 3072,
    }
)
BLOCK = BlockNames(
    norm1="layer_norm1",
    qkv=("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."),
    out="self_attn.out_proj",
    norm2="layer_norm2",
    fc1="mlp.fc1",
    fc2="mlp.fc2",
)
LEGACY_END = 2  # an end id of 2 means: the largest id of the text (transformers, CLIPTextTransformer)


def config_of(settings: dict[str, Any], family: Family) -> ClipConfig:
    vision, text = _settings(settings, "vision"), _settings(settings, "text")
    if family == "siglip":
        vision, text = SIGLIP_VISION | vision, SIGLIP_TEXT | text
        rest: dict[str, Any] = {"width": None, "temperature": 0.1, "bias": -10.0, "max_scale": 1000.0}
        image = _shared(vision) | {"class_token": False, "patch_bias": True, "pre_norm": False, "pool": "map"}
        head = {"causal": False, "pool": "last", "head": True}
    else:
        vision, text = VISION | vision, TEXT | text if family == "clip" else text
        rest = {"width": settings.get("projection_dim") or 512}
        image = _shared(vision)
        end = text.get("eos_token_id")
        head = {"pool": "eos", "eos_token_id": None if end == LEGACY_END else end}
    image |= {"kind": "vit", "image_size": vision["image_size"], "patch_size": vision["patch_size"]}
    if family == "chinese_clip":
        written = hf_bert.config_of(text, pool="cls").to_dict()
    else:
        written = _shared(text) | head | {"kind": "text_transformer"}
        written |= {"vocab_size": text["vocab_size"], "max_length": text["max_position_embeddings"]}
    return ClipConfig.parse({"image": image, "text": written, **rest}, "config.json")


def _settings(settings: dict[str, Any], tower: Literal["vision", "text"]) -> dict[str, Any]:
    # Files of 2022 repeat a tower's settings; there the repetition counts (transformers, CLIPConfig).
    return settings.get(f"{tower}_config_dict") or settings.get(f"{tower}_config") or {}


def _shared(read: dict[str, Any]) -> dict[str, Any]:
    return {
        "width": read["hidden_size"],
        "layers": read["num_hidden_layers"],
        "heads": read["num_attention_heads"],
        "mlp_width": read["intermediate_size"],
        "activation": ACTIVATIONS.get(read["hidden_act"], read["hidden_act"]),
        "eps": read["layer_norm_eps"],
        "dropout": read["attention_dropout"],
    }


def family_of(config: ClipConfig) -> Family:
    """The family a config would be written as; whether it can be is another question."""
    if isinstance(config.text, BertConfig):
        return "chinese_clip"
    return "clip" if config.width is not None else "siglip"


def settings_of(config: ClipConfig) -> dict[str, Any]:
    family = family_of(config)
    image, text = config.image, config.text
    assert isinstance(image, VitConfig)
    vision_settings = _shared_of(image) | {"image_size": image.image_size, "patch_size": image.patch_size}
    if isinstance(text, BertConfig):
        text_settings = hf_bert.settings_of(text)
    else:
        assert isinstance(text, TextTransformerConfig)
        text_settings = _shared_of(text) | {
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_length,
            # Ids outside of a small vocabulary would make transformers warn.
            "bos_token_id": 0,
            "pad_token_id": 0,
            "eos_token_id": LEGACY_END if text.eos_token_id is None else text.eos_token_id,
        }
    settings: dict[str, Any] = {
        "model_type": family,
        "architectures": [{"clip": "CLIPModel", "chinese_clip": "ChineseCLIPModel", "siglip": "SiglipModel"}[family]],
        "vision_config": vision_settings | {"model_type": f"{family}_vision_model"},
        "text_config": text_settings | {"model_type": f"{family}_text_model"},
    }
    return settings if family == "siglip" else settings | {"projection_dim": config.width}


def _shared_of(config: VitConfig | TextTransformerConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_width or 4 * config.width,
        "hidden_act": THEIR_ACTIVATIONS[config.activation],
        "layer_norm_eps": config.eps,
        "attention_dropout": config.dropout,
    }


def entries(config: ClipConfig) -> list[Entry]:
    assert isinstance(config.image, VitConfig)
    family = family_of(config)
    found = _vision(config.image)
    if isinstance(config.text, BertConfig):
        found += hf_bert.entries(config.text, "text_encoder.", "text_model.")
    else:
        assert isinstance(config.text, TextTransformerConfig)
        found += _text(config.text)
    if family == "siglip":
        return [*found, same("log_scale", "logit_scale", leading=1), same("bias", "logit_bias", leading=1)]
    return [
        *found,
        same("log_scale", "logit_scale"),
        same("image_projection.weight", "visual_projection.weight"),
        same("text_projection.weight", "text_projection.weight"),
    ]


def _vision(config: VitConfig) -> list[Entry]:
    ours, theirs = "image_encoder", "vision_model"
    found = [
        same(f"{ours}.positions", f"{theirs}.embeddings.position_embedding.weight"),
        *affine(f"{ours}.patches.projection", f"{theirs}.embeddings.patch_embedding", bias=config.patch_bias),
        *BLOCK.entries(f"{ours}.blocks", f"{theirs}.encoder.layers", config.layers),
        *affine(f"{ours}.post_norm", f"{theirs}.post_layernorm"),
    ]
    if config.class_token:
        found.append(same(f"{ours}.class_token", f"{theirs}.embeddings.class_embedding"))
    if config.pre_norm:
        found += affine(f"{ours}.pre_norm", f"{theirs}.pre_layrnorm")  # their spelling
    if config.pool == "map":
        found.append(same(f"{ours}.head.probe", f"{theirs}.head.probe"))
        for part in ("weight", "bias"):
            split = tuple(f"{ours}.head.attention.{name}.{part}" for name in ("q", "kv"))
            found.append(Entry(split, (f"{theirs}.head.attention.in_proj_{part}",)))
        for our, their in {"attention.out": "attention.out_proj", "norm": "layernorm"}.items():
            found += affine(f"{ours}.head.{our}", f"{theirs}.head.{their}")
        for layer in ("fc1", "fc2"):
            found += affine(f"{ours}.head.mlp.{layer}", f"{theirs}.head.mlp.{layer}")
    return found


def _text(config: TextTransformerConfig) -> list[Entry]:
    ours, theirs = "text_encoder", "text_model"
    found = [
        same(f"{ours}.embedding.weight", f"{theirs}.embeddings.token_embedding.weight"),
        same(f"{ours}.positions", f"{theirs}.embeddings.position_embedding.weight"),
        *BLOCK.entries(f"{ours}.blocks", f"{theirs}.encoder.layers", config.layers),
        *affine(f"{ours}.post_norm", f"{theirs}.final_layer_norm"),
    ]
    return found + (affine(f"{ours}.head", f"{theirs}.head") if config.head else [])
