"""transformers' VisualBertModel on disk, also with the heads of pre-training, answers (VQA) and reasoning (NLVR2)."""

from typing import Any

import torch

from polymodal.errors import ConfigError
from polymodal.models.heads import HeadConfig, LinearHead
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import MaskedTextHeadConfig, MatchingHeadConfig, PretrainingHeadConfig
from polymodal.models.published import hf_bert, hf_joint
from polymodal.models.published.keymap import Entry, State, affine, same
from polymodal.models.visualbert import visualbert

DEFAULTS: dict[str, Any] = hf_bert.DEFAULTS | {"visual_embedding_dim": 512}
PARTS = ("bert", "regions", "early")  # kinds of the text, the picture and the fusion
PREFIX = "visual_bert."
HEADS = ("cls.",)
UNREAD = "pooler.dense."  # in the model for answers, whose head reads a word
LEFT_OUT = (*HEADS, UNREAD)
POOLS = {  # where the answers' head, called alike in every model, reads
    "VisualBertForQuestionAnswering": "last_word",
    "VisualBertForVisualReasoning": "pooler",
}
WORDS = "embeddings.word_embeddings.weight"
ARCHITECTURES = {  # by heads
    frozenset[str](): "VisualBertModel",
    frozenset({"answer"}): "VisualBertForQuestionAnswering",
    frozenset({"masked_text", "matching"}): "VisualBertForPreTraining",
}
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")
MATCHING = "cls.seq_relationship."


def config_of(settings: dict[str, Any], state: State) -> MultimodalConfig:
    read = DEFAULTS | settings
    if read.get("bypass_transformer"):
        raise ConfigError("bypass_transformer must be false, got true")
    pool = POOLS.get((read.get("architectures") or [""])[0])
    answers = None if pool is None else state.get("cls.weight")
    return hf_joint.configured(
        visualbert,
        **hf_joint.text_fields(read),
        layers=read["num_hidden_layers"],
        eps=read["layer_norm_eps"],
        feature_width=read["visual_embedding_dim"],
        pool="pooler" if answers is None else pool,
        targets={} if answers is None else _answers(read, len(answers)),
        pretraining=_pretraining(read, state),
    )


def _answers(read: dict[str, Any], count: int) -> dict[str, HeadConfig]:
    return {"answer": LinearHead(outputs=count, dropout=read["hidden_dropout_prob"])}


def _pretraining(read: dict[str, Any], state: State) -> dict[str, PretrainingHeadConfig]:
    found: dict[str, PretrainingHeadConfig] = {}
    if hf_joint.has_masked_text(read, state, "cls.predictions.bias"):
        found["masked_text"] = MaskedTextHeadConfig(eps=read["layer_norm_eps"])
    if f"{MATCHING}weight" in state:
        found["matching"] = MatchingHeadConfig()
    return found


def settings_of(config: Any) -> dict[str, Any]:
    architecture = hf_joint.architecture(config, ARCHITECTURES)
    if architecture in POOLS:
        architecture = next((name for name, pool in POOLS.items() if pool == config.fusion.pool), architecture)
    return {
        "model_type": "visual_bert",
        "architectures": [architecture],
        **hf_joint.text_settings(config.encoders["text"], config.fusion),
        "num_hidden_layers": config.fusion.layers,
        "layer_norm_eps": config.fusion.eps,
        "visual_embedding_dim": config.encoders["image"].feature_width,
        "bypass_transformer": False,
    }


def entries(config: Any) -> list[Entry]:
    image = "encoders.image.embedding"
    found = [
        *hf_joint.text_entries("embeddings"),
        *affine(f"{image}.feature", "embeddings.visual_projection"),
        same(f"{image}.segments", "embeddings.visual_token_type_embeddings.weight"),
        same(f"{image}.positions", "embeddings.visual_position_embeddings.weight"),
        *affine("fusion.input_norm", "embeddings.LayerNorm"),
        *hf_bert.BLOCK.entries("fusion.blocks", "encoder.layer", config.fusion.layers),
        *hf_joint.stand_in_entries(),
    ]
    if config.fusion.pool == "pooler":
        found += affine("fusion.pooler.0", "pooler.dense")
    if "answer" in config.heads.targets:
        found += affine("heads.targets.answer.1", "cls")
    if "masked_text" in config.pretraining:
        found += hf_joint.masked_text_entries("cls.predictions", "cls.predictions.bias")
    if "matching" in config.pretraining:
        found += affine("pretraining.matching", MATCHING.removesuffix("."))
    return found


def plain(state: State, where: str) -> State:
    return _matching_turned(hf_joint.plain(state, PREFIX, WORDS, TIED, where))


def written(state: State) -> State:
    found = _matching_turned(state)
    if "cls.weight" in state and f"{UNREAD}weight" not in state:
        width = state["cls.weight"].shape[1]
        found |= {f"{UNREAD}weight": torch.zeros(width, width), f"{UNREAD}bias": torch.zeros(width)}
    return hf_joint.written(found, PREFIX, HEADS)


def _matching_turned(state: State) -> State:
    """Their output 0 says that text and picture match, as BERT's next sentence; our output 1 does."""
    return {name: tensor.flip(0) if name.startswith(MATCHING) else tensor for name, tensor in state.items()}
