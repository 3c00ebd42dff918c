"""transformers' ViltModel, ViltForMaskedLM, ViltForQuestionAnswering and ViltForImageAndTextRetrieval on disk."""

from typing import Any

from polymodal.errors import ConfigError
from polymodal.models.heads import HeadConfig, MlpHead
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import MaskedTextHeadConfig, MatchingHeadConfig, PretrainingHeadConfig
from polymodal.models.published import hf_bert, hf_joint, hf_vit
from polymodal.models.published.keymap import Entry, State, affine, same
from polymodal.models.vilt import vilt

DEFAULTS: dict[str, Any] = hf_bert.DEFAULTS | {
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "image_size": 384,
    "patch_size": 32,
}
NEEDED: dict[str, Any] = {"modality_type_vocab_size": 2, "num_channels": 3, "qkv_bias": True}
PARTS = ("bert", "vit", "early")  # kinds of the text, the picture and the fusion
PREFIX = "vilt."
HEADS = ("mlm_score.", "classifier.", "rank_output.")
LEFT_OUT = HEADS
TIED = ("mlm_score.decoder.weight",)
WORDS = "embeddings.text_embeddings.word_embeddings.weight"
ARCHITECTURES = {  # by heads
    frozenset[str](): "ViltModel",
    frozenset({"masked_text"}): "ViltForMaskedLM",
    frozenset({"answer"}): "ViltForQuestionAnswering",
    frozenset({"matching"}): "ViltForImageAndTextRetrieval",
}
BIAS = "mlm_score.decoder.bias"


def config_of(settings: dict[str, Any], state: State) -> MultimodalConfig:
    read = DEFAULTS | settings
    for name, needed in NEEDED.items():
        if read.get(name, needed) != needed:
            raise ConfigError(f"{name} must be {needed}, got {read[name]}")
    return hf_joint.configured(
        vilt,
        **hf_joint.text_fields(read),
        layers=read["num_hidden_layers"],
        eps=read["layer_norm_eps"],
        image_size=read["image_size"],
        patch_size=read["patch_size"],
        targets=_targets(state),
        pretraining=_pretraining(read, state),
    )


def _targets(state: State) -> dict[str, HeadConfig]:
    last = state.get("classifier.3.weight")
    # Its norm has torch's eps, whatever config.json says of the others.
    return {} if last is None else {"answer": MlpHead(outputs=len(last), norm="pre", eps=1e-5)}


def _pretraining(read: dict[str, Any], state: State) -> dict[str, PretrainingHeadConfig]:
    found: dict[str, PretrainingHeadConfig] = {}
    if hf_joint.has_masked_text(read, state, BIAS):
        found["masked_text"] = MaskedTextHeadConfig(eps=read["layer_norm_eps"])
    if "rank_output.weight" in state:
        found["matching"] = MatchingHeadConfig(outputs=1)
    return found


def settings_of(config: Any) -> dict[str, Any]:
    image = config.encoders["image"]
    return {
        "model_type": "vilt",
        "architectures": [hf_joint.architecture(config, ARCHITECTURES)],
        **hf_joint.text_settings(config.encoders["text"], config.fusion),
        "num_hidden_layers": config.fusion.layers,
        "layer_norm_eps": config.fusion.eps,
        "image_size": image.image_size,
        "patch_size": image.patch_size,
        **NEEDED,
    }


def entries(config: Any) -> list[Entry]:
    found = [
        *hf_joint.text_entries("embeddings.text_embeddings"),
        *affine("encoders.text.norm", "embeddings.text_embeddings.LayerNorm"),
        same("encoders.image.class_token", "embeddings.cls_token", leading=2),
        same("encoders.image.positions", "embeddings.position_embeddings", leading=1),
        *affine("encoders.image.patches.projection", "embeddings.patch_embeddings.projection"),
        same("fusion.types", "embeddings.token_type_embeddings.weight"),
        *hf_vit.BLOCK.entries("fusion.blocks", "encoder.layer", config.fusion.layers),
        *affine("fusion.norm", "layernorm"),
        *affine("fusion.pooler.0", "pooler.dense"),
        *hf_joint.stand_in_entries(),
    ]
    if "answer" in config.heads.targets:
        for ours, theirs in (("fc1", 0), ("norm", 1), ("fc2", 3)):
            found += affine(f"heads.targets.answer.{ours}", f"classifier.{theirs}")
    if "masked_text" in config.pretraining:
        found += hf_joint.masked_text_entries("mlm_score", BIAS)
    if "matching" in config.pretraining:
        found += affine("pretraining.matching", "rank_output")
    return found


def plain(state: State, where: str) -> State:
    found = hf_joint.plain(state, PREFIX, WORDS, TIED, where)
    old = found.pop("mlm_score.bias", None)  # transformers 4 wrote the decoder's bias once or twice
    return found if old is None else found | {BIAS: found.get(BIAS, old)}


def written(state: State) -> State:
    return hf_joint.written(state, PREFIX, HEADS)
