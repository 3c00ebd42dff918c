"""transformers' LxmertModel, LxmertForPreTraining and LxmertForQuestionAnswering on disk.

Airsplay's own files (`*_LXRT.pth`) have the same names but for one prefix.
"""

from typing import Any

from polymodal.errors import ConfigError
from polymodal.models.heads import HeadConfig, MlpHead
from polymodal.models.lxmert import lxmert
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import (
    MaskedRegionsHeadConfig,
    MaskedTextHeadConfig,
    MatchingHeadConfig,
    PretrainingHeadConfig,
)
from polymodal.models.published import hf_bert, hf_joint
from polymodal.models.published.keymap import BlockNames, Entry, State, affine

DEFAULTS: dict[str, Any] = hf_bert.DEFAULTS | {
    "attention_probs_dropout_prob": 0.1,
    "l_layers": 9,
    "r_layers": 5,
    "x_layers": 5,
    "visual_feat_dim": 2048,
    "visual_pos_dim": 4,
}
PARTS = ("bert", "regions", "crossmodal")  # kinds of the text, the picture and the fusion
PREFIX = "lxmert."
HEADS = ("cls.", "obj_predict_head.", "answer_head.")
LEFT_OUT = HEADS
TIED = ("cls.predictions.decoder.weight",)
OUTPUTS = {"classes": "obj", "attributes": "attr", "features": "feat"}  # of masked regions: our names, theirs
WORDS = "embeddings.word_embeddings.weight"
BASIC = frozenset({"masked_text", "matching"})
MORE = [frozenset(one) for one in ((), ("answer",), ("masked_regions",), ("answer", "masked_regions"))]
ARCHITECTURES = {  # by heads; those of masked regions and of answers may be switched off in pre-training
    frozenset[str](): "LxmertModel",
    frozenset({"answer"}): "LxmertForQuestionAnswering",
    **{BASIC | more: "LxmertForPreTraining" for more in MORE},
}


def config_of(settings: dict[str, Any], state: State) -> MultimodalConfig:
    read = DEFAULTS | settings
    if read["visual_pos_dim"] != 4:
        raise ConfigError(f"visual_pos_dim must be 4 (the corners of a box), got {read['visual_pos_dim']}")
    return hf_joint.configured(
        lxmert,
        **hf_joint.text_fields(read),
        text_layers=read["l_layers"],
        image_layers=read["r_layers"],
        cross_layers=read["x_layers"],
        feature_width=read["visual_feat_dim"],
        targets=_targets(state),
        pretraining=_pretraining(read, state),
    )


def _targets(state: State) -> dict[str, HeadConfig]:
    last = state.get("answer_head.logit_fc.3.weight")
    return {} if last is None else {"answer": MlpHead(outputs=len(last))}


def _pretraining(read: dict[str, Any], state: State) -> dict[str, PretrainingHeadConfig]:
    found: dict[str, PretrainingHeadConfig] = {}
    if hf_joint.has_masked_text(read, state, "cls.predictions.bias"):
        found["masked_text"] = MaskedTextHeadConfig()
    if "cls.seq_relationship.weight" in state:
        found["matching"] = MatchingHeadConfig()
    names = {name: f"obj_predict_head.decoder_dict.{theirs}.weight" for name, theirs in OUTPUTS.items()}
    outputs = {name: len(state[theirs]) for name, theirs in names.items() if theirs in state}
    if outputs and read["hidden_act"] == "gelu":
        found["masked_regions"] = MaskedRegionsHeadConfig(input="image", outputs=outputs)
    return found


def settings_of(config: Any) -> dict[str, Any]:
    regions = config.pretraining.get("masked_regions")
    outputs = {} if regions is None else regions.outputs
    answers = config.heads.targets.get("answer")
    return {
        "model_type": "lxmert",
        "architectures": [hf_joint.architecture(config, ARCHITECTURES)],
        **hf_joint.text_settings(config.encoders["text"], config.fusion),
        "l_layers": config.encoders["text"].layers,
        "r_layers": config.encoders["image"].layers,
        "x_layers": config.fusion.layers,
        "visual_feat_dim": config.encoders["image"].feature_width,
        "visual_pos_dim": 4,
        "num_qa_labels": 9500 if answers is None else answers.outputs,
        "num_object_labels": outputs.get("classes", 1600),
        "num_attr_labels": outputs.get("attributes", 400),
        "task_qa": answers is not None,
        "task_obj_predict": bool(outputs),
        **{f"visual_{theirs}_loss": name in outputs for name, theirs in OUTPUTS.items()},
    }


def entries(config: Any) -> list[Entry]:
    text, image, joint = "encoders.text", "encoders.image", "fusion"
    found = [
        *hf_joint.text_entries("embeddings"),
        *affine(f"{text}.norm", "embeddings.LayerNorm"),
        *hf_bert.BLOCK.entries(f"{text}.blocks", "encoder.layer", config.encoders["text"].layers),
        *affine(f"{image}.embedding.feature", "encoder.visn_fc.visn_fc"),
        *affine(f"{image}.embedding.feature_norm", "encoder.visn_fc.visn_layer_norm"),
        *affine(f"{image}.embedding.box", "encoder.visn_fc.box_fc"),
        *affine(f"{image}.embedding.box_norm", "encoder.visn_fc.box_layer_norm"),
        *hf_bert.BLOCK.entries(f"{image}.blocks", "encoder.r_layers", config.encoders["image"].layers),
        *(one for layer in range(config.fusion.layers) for one in _exchange(layer)),
        *affine(f"{joint}.pooler.0", "pooler.dense"),
        *hf_joint.stand_in_entries(),
    ]
    for ours, theirs in (("text", "lang"), ("image", "visn")):
        found += _stream(theirs).entries(f"{joint}.blocks.{ours}", "encoder.x_layers", config.fusion.layers)
    return found + _heads(config)


def _exchange(layer: int) -> list[Entry]:
    ours, theirs = f"fusion.exchanges.{layer}", f"encoder.x_layers.{layer}.visual_attention"
    joint = [
        Entry((f"{ours}.attention.kv.{part}",), (f"{theirs}.att.key.{part}", f"{theirs}.att.value.{part}"))
        for part in ("weight", "bias")
    ]
    return [
        *joint,
        *affine(f"{ours}.attention.q", f"{theirs}.att.query"),
        *affine(f"{ours}.attention.out", f"{theirs}.output.dense"),
        *affine(f"{ours}.norm", f"{theirs}.output.LayerNorm"),
    ]


def _stream(name: str) -> BlockNames:
    """A stream's own half of a cross-modality layer."""
    attention = f"{name}_self_att"
    return BlockNames(
        norm1=f"{attention}.output.LayerNorm",
        qkv=(f"{attention}.self.query.", f"{attention}.self.key.", f"{attention}.self.value."),
        out=f"{attention}.output.dense",
        norm2=f"{name}_output.LayerNorm",
        fc1=f"{name}_inter.dense",
        fc2=f"{name}_output.dense",
    )


def _heads(config: Any) -> list[Entry]:
    found: list[Entry] = []
    if "answer" in config.heads.targets:
        for layer, number in (("fc1", 0), ("norm", 2), ("fc2", 3)):
            found += affine(f"heads.targets.answer.{layer}", f"answer_head.logit_fc.{number}")
    if "masked_text" in config.pretraining:
        found += hf_joint.masked_text_entries("cls.predictions", "cls.predictions.bias")
    if "matching" in config.pretraining:
        found += affine("pretraining.matching", "cls.seq_relationship")
    if "masked_regions" in config.pretraining:
        ours, theirs = "pretraining.masked_regions", "obj_predict_head"
        found += affine(f"{ours}.transform.dense", f"{theirs}.transform.dense")
        found += affine(f"{ours}.transform.norm", f"{theirs}.transform.LayerNorm")
        for name in config.pretraining["masked_regions"].outputs:
            found += affine(f"{ours}.decoders.{name}", f"{theirs}.decoder_dict.{OUTPUTS[name]}")
    return found


def plain(state: State, where: str) -> State:
    return hf_joint.plain({_current(name): tensor for name, tensor in state.items()}, PREFIX, WORDS, TIED, where)


def _current(name: str) -> str:
    return name.removeprefix("bert.")  # as airsplay's files call the whole of the base model


def written(state: State) -> State:
    return hf_joint.written(state, PREFIX, HEADS)
