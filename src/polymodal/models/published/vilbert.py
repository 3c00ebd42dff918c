"""ViLBERT as vilbert_beta and vilbert-multi-task release it: a settings JSON and a state dict in a torch file.

Sources: jiasenlu/vilbert_beta vilbert/vilbert.py, config/*.json; facebookresearch/vilbert-multi-task.

| theirs | ours |
|---|---|
| alignment: class 0 is "belongs together" | "matching": 1 is; the two rows are swapped here and nowhere else |
| `cls.predictions.decoder.weight`, listed beside the word embeddings that it is | once, as the text encoder's |
| `biOutput.q_dense1`, `q_dense2`, which nothing reads | left out; written as zeros |
| nothing | learned tokens for absent inputs: zeros when read, left out when written |
| heads of tasks, `task_embeddings` | left out |
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from polymodal.encoders.bert import BertConfig
from polymodal.encoders.regions import RegionsConfig
from polymodal.errors import ArtifactError, ConfigError
from polymodal.fusion.coattention import CoattentionConfig
from polymodal.layers.skeleton import skeleton
from polymodal.models.multimodal import Multimodal, MultimodalConfig
from polymodal.models.pretraining import MaskedRegionsHeadConfig
from polymodal.models.published import hf_bert
from polymodal.models.published.hf_joint import configured
from polymodal.models.published.keymap import Entry, State, affine, same, to_theirs
from polymodal.models.published.pretrained import Pretrained, fill
from polymodal.models.published.weights import read_weights, write_weights
from polymodal.models.vilbert import vilbert
from polymodal.preprocess import Preprocess, TextPreprocess
from polymodal.text import Tokenizer

NEEDED = (
    *("vocab_size", "max_position_embeddings", "type_vocab_size", "hidden_size", "num_hidden_layers"),
    *("num_attention_heads", "intermediate_size", "hidden_act", "hidden_dropout_prob"),
    *("v_feature_size", "v_target_size", "v_hidden_size", "v_num_hidden_layers", "v_num_attention_heads"),
    *("v_intermediate_size", "v_hidden_act", "bi_hidden_size", "bi_num_attention_heads"),
    *("v_biattention_id", "t_biattention_id"),
)
HEADS = ("vil_", "vision_logit.", "linguisic_logit.", "bert.embeddings.task_embeddings.")
WORDS, TIED = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
ALIGNMENT = ("cls.bi_seq_relationship.weight", "cls.bi_seq_relationship.bias")
MISSING = ("missing.learned.text", "missing.learned.image")
TOKENS = 36  # of a text in their pre-training


def is_vilbert(settings: dict[str, Any]) -> bool:
    return "v_biattention_id" in settings


def config_of(settings: dict[str, Any], where: str) -> MultimodalConfig:
    """
    Raises:
        ArtifactError: a setting is missing, or asks for what is not supported.
    """
    if lacking := [key for key in NEEDED if key not in settings]:
        # The defaults in their code are those of no released model.
        raise ArtifactError(f"{where}: the settings lack {', '.join(lacking)}; give the JSON of the checkpoint")
    _refuse_other_models(settings, where)
    _check_connections(settings, where)
    try:
        return configured(_config, read=settings)
    except ConfigError as error:
        raise ArtifactError(f"{where}: the settings ask for a model that is not supported: {error}") from None


def _refuse_other_models(settings: dict[str, Any], where: str) -> None:
    wanted: dict[str, tuple[Any, ...]] = {
        "hidden_act": tuple(hf_bert.ACTIVATIONS),
        "v_hidden_act": tuple(hf_bert.ACTIVATIONS),
        "fusion_method": ("mul", "sum"),
        "with_coattention": (True,),
        "dynamic_attention": (False,),
        "model": ("bert",),
    }
    for key, known in wanted.items():
        if key in settings and settings[key] not in known:
            raise ArtifactError(f"{where}: {key} must be one of {known}, got {settings[key]!r}")


def _check_connections(settings: dict[str, Any], where: str) -> None:
    for key, count in (("t_biattention_id", "num_hidden_layers"), ("v_biattention_id", "v_num_hidden_layers")):
        places, layers = settings[key], settings[count]
        if not places or places != sorted(places) or places[0] < 0 or places[-1] >= layers:
            raise ArtifactError(f"{where}: {key} must rise from 0 to less than {count} ({layers}), got {places}")
    text, image = len(settings["t_biattention_id"]), len(settings["v_biattention_id"])
    if text != image:
        raise ArtifactError(
            f"{where}: t_biattention_id must have a number for each of v_biattention_id ({image}), got {text}"
        )


def _config(read: dict[str, Any]) -> MultimodalConfig:
    text_layers = _layers_behind(read["t_biattention_id"], read["num_hidden_layers"])
    image_layers = _layers_behind(read["v_biattention_id"], read["v_num_hidden_layers"])
    text = hf_bert.config_of(read | {"num_hidden_layers": read["t_biattention_id"][0], "layer_norm_eps": 1e-12}, "cls")
    image = {
        "feature_width": read["v_feature_size"],
        "width": read["v_hidden_size"],
        "style": "sum",
        "global_region": True,
        "layers": read["v_biattention_id"][0],
        "heads": read["v_num_attention_heads"],
        "mlp_width": read["v_intermediate_size"],
        "activation": hf_bert.ACTIVATIONS[read["v_hidden_act"]],
        "pool": "first",
        "dropout": read["hidden_dropout_prob"],
    }
    # What a masked region is to give: features by `predict_feature` (beta) or `visual_target` 1 and 2 (multi-task).
    features = read.get("predict_feature", False) or read.get("visual_target", 0) in (1, 2)
    return vilbert(
        text,
        RegionsConfig.parse(image, "settings"),
        text_layers=text_layers,
        image_layers=image_layers,
        width=read["bi_hidden_size"],
        heads=read["bi_num_attention_heads"],
        join="sum" if read.get("fusion_method", "mul") == "sum" else "product",
        regions=MaskedRegionsHeadConfig(
            input="image", outputs={"features" if features else "classes": read["v_target_size"]}
        ),
    )


def _layers_behind(connections: list[int], layers: int) -> tuple[int, ...]:
    """Layers behind each connection, of the layers in front of which the connections stand."""
    ends = [*connections[1:], layers]
    return tuple(end - start for start, end in zip(connections, ends, strict=True))


class _Parts(NamedTuple):
    text: BertConfig
    image: RegionsConfig
    fusion: CoattentionConfig
    regions: dict[str, int]  # what pre-training predicts of a masked region: one name and a number


def _parts(config: MultimodalConfig) -> _Parts:
    text, image, fusion = config.encoders.get("text"), config.encoders.get("image"), config.fusion
    head = config.pretraining.get("masked_regions")
    outputs = head.outputs if isinstance(head, MaskedRegionsHeadConfig) else {}
    if (
        isinstance(text, BertConfig)
        and isinstance(image, RegionsConfig)
        and isinstance(fusion, CoattentionConfig)
        and list(config.encoders) == ["text", "image"]
        and list(outputs) in (["classes"], ["features"])
    ):
        return _Parts(text, image, fusion, outputs)
    raise ArtifactError(
        'layout vilbert: wanted encoders text (kind "bert") and image (kind "regions"), fusion "coattention" and a '
        'head "masked_regions" with classes or features for pre-training; save other models as an artifact'
    )


def settings_of(config: MultimodalConfig) -> dict[str, Any]:
    """Their settings of a ViLBERT.

    Raises:
        ArtifactError: it is none, or has what theirs cannot have.
    """
    text, image, fusion, regions = _parts(config)
    ours = hf_bert.settings_of(text)
    settings = {key: ours[key] for key in NEEDED if key in ours} | {
        "attention_probs_dropout_prob": text.dropout,
        "num_hidden_layers": text.layers + sum(fusion.first.layers),
        "v_feature_size": image.feature_width,
        "v_target_size": next(iter(regions.values())),
        "v_hidden_size": image.width,
        "v_num_hidden_layers": image.layers + sum(fusion.second.layers),
        "v_num_attention_heads": image.heads,
        "v_intermediate_size": image.mlp_width or 4 * image.width,
        "v_hidden_act": hf_bert.THEIR_ACTIVATIONS[image.activation],
        "v_hidden_dropout_prob": image.dropout,
        "v_attention_probs_dropout_prob": image.dropout,
        "bi_hidden_size": fusion.width,
        "bi_num_attention_heads": fusion.heads,
        "t_biattention_id": _starts(text.layers, fusion.first.layers),
        "v_biattention_id": _starts(image.layers, fusion.second.layers),
        "initializer_range": 0.02,
        "v_initializer_range": 0.02,
        "fusion_method": "sum" if fusion.join == "sum" else "mul",
        "predict_feature": "features" in regions,
    }
    if lost := _lost(config, config_of(settings, "layout vilbert")):
        raise ArtifactError(f"layout vilbert: their ViLBERT cannot have this model's {', '.join(lost)}")
    return settings


def _starts(first: int, behind: tuple[int, ...]) -> list[int]:
    return [first + sum(behind[:number]) for number in range(len(behind))]


def _lost(config: MultimodalConfig, back: MultimodalConfig) -> list[str]:
    """Parts of a config that do not survive being written and read."""
    ours, theirs = (_explicit(one.to_dict()) for one in (config, back))
    return [
        f"{part}.{name}"
        for part in ("encoders", "fusion", "heads", "pretraining")
        for name in sorted(ours[part].keys() | theirs[part].keys())
        if ours[part].get(name) != theirs[part].get(name)
    ]


def _explicit(config: dict[str, Any]) -> dict[str, Any]:
    """With the widths of MLPs that a config leaves to the rule of four."""
    for part, width in (("text", "first"), ("image", "second")):
        encoder, stream = config["encoders"][part], config["fusion"][width]
        for holder in (encoder, stream):
            holder["mlp_width"] = holder["mlp_width"] or 4 * encoder["width"]
    return config


def entries(config: MultimodalConfig) -> list[Entry]:
    parts = _parts(config)
    (output,) = parts.regions
    return [
        *hf_bert.entries(parts.text, "encoders.text.", "bert."),
        *affine("encoders.image.embedding.feature", "bert.v_embeddings.image_embeddings"),
        *affine("encoders.image.embedding.box", "bert.v_embeddings.image_location_embeddings"),
        *affine("encoders.image.embedding.norm", "bert.v_embeddings.LayerNorm"),
        *hf_bert.BLOCK.entries("encoders.image.blocks", "bert.encoder.v_layer", parts.image.layers),
        *(entry for number in range(len(parts.fusion.first.layers)) for entry in _stage(number, parts)),
        *affine("fusion.poolers.0.0", "bert.t_pooler.dense"),
        *affine("fusion.poolers.1.0", "bert.v_pooler.dense"),
        same("pretraining.masked_text.bias", "cls.predictions.bias"),
        *_transform("masked_text", "cls.predictions"),
        *affine("pretraining.matching", "cls.bi_seq_relationship"),
        *_transform("masked_regions", "cls.imagePredictions"),
        *affine(f"pretraining.masked_regions.decoders.{output}", "cls.imagePredictions.decoder"),
        *(same(name, name) for name in MISSING),
    ]


def _stage(number: int, parts: _Parts) -> list[Entry]:
    text, image, fusion, _ = parts
    ours, theirs = f"fusion.stages.{number}", f"bert.encoder.c_layer.{number}"
    starts = _starts(text.layers, fusion.first.layers), _starts(image.layers, fusion.second.layers)
    return [
        *_side(f"{ours}.connection.first", theirs, 2, "t"),
        *_side(f"{ours}.connection.second", theirs, 1, "v"),
        *hf_bert.BLOCK.entries(
            f"{ours}.layers.0", "bert.encoder.layer", fusion.first.layers[number], starts[0][number]
        ),
        *hf_bert.BLOCK.entries(
            f"{ours}.layers.1", "bert.encoder.v_layer", fusion.second.layers[number], starts[1][number]
        ),
    ]


def _side(ours: str, theirs: str, stream: Literal[1, 2], letter: Literal["v", "t"]) -> list[Entry]:
    """A stream's half of a connection: 1 and v are the regions, 2 and t the text."""
    joint = [
        Entry(
            (f"{ours}.qkv.{part}",),
            tuple(f"{theirs}.biattention.{name}{stream}.{part}" for name in ("query", "key", "value")),
        )
        for part in ("weight", "bias")
    ]
    return [
        *joint,
        *affine(f"{ours}.out", f"{theirs}.biOutput.dense{stream}"),
        *affine(f"{ours}.norm1", f"{theirs}.biOutput.LayerNorm{stream}"),
        *affine(f"{ours}.mlp.fc1", f"{theirs}.{letter}_intermediate.dense"),
        *affine(f"{ours}.mlp.fc2", f"{theirs}.{letter}_output.dense"),
        *affine(f"{ours}.norm2", f"{theirs}.{letter}_output.LayerNorm"),
    ]


def _transform(head: str, theirs: str) -> list[Entry]:
    return [
        *affine(f"pretraining.{head}.transform.dense", f"{theirs}.transform.dense"),
        *affine(f"pretraining.{head}.transform.norm", f"{theirs}.transform.LayerNorm"),
    ]


def _dead(config: MultimodalConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that stand in every checkpoint and that nothing reads."""
    text, image, fusion, _ = _parts(config)
    return {
        f"bert.encoder.c_layer.{number}.biOutput.q_dense{stream}.{part}": shape
        for number in range(len(fusion.first.layers))
        for stream, width in ((1, image.width), (2, text.width))
        for part, shape in (("weight", (width, fusion.width)), ("bias", (width,)))
    }


def load(folder: Path, settings: dict[str, Any]) -> Pretrained:
    """The pre-training model of a folder with these settings; `left_out` names the heads of tasks and dead weights.

    Raises:
        ArtifactError: settings are missing, a weight is missing, has no place or does not fit.
    """
    where = str(folder)
    config = config_of(settings, where)
    state = _plain(read_weights(_weights(folder)), where)
    for name, encoder in zip(MISSING, config.encoders.values(), strict=True):
        state[name] = torch.zeros(encoder.width)
    model: Multimodal = skeleton(config.build)
    left_out = fill(model, state, entries(config), (*HEADS, *_dead(config)), where)
    found = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    length = min(TOKENS, int(settings["max_position_embeddings"]))
    preprocess = Preprocess(text=TextPreprocess(max_length=length))
    return Pretrained(model, Tokenizer.load(folder) if found else None, preprocess, left_out=left_out)


def _weights(folder: Path) -> Path:
    """The folder where the file has one of the usual names; theirs end with an epoch or are called after a task."""
    others = sorted(folder.glob("*.bin"))
    usual = any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))
    return others[0] if len(others) == 1 and not usual else folder


def _plain(state: State, where: str) -> State:
    if TIED in state and WORDS in state and not torch.equal(state[TIED], state[WORDS]):
        raise ArtifactError(f"{where}: {TIED} must be equal to {WORDS}, which it is tied to; the checkpoint is damaged")
    return _swapped({name: tensor for name, tensor in state.items() if name != TIED})


def _swapped(state: State) -> State:
    return state | {name: state[name].flip(0) for name in ALIGNMENT if name in state}


def save(pretrained: Pretrained, folder: Path) -> None:
    """Write config.json, and model.safetensors with all of their names and shapes.

    Their code reads pickles alone, which are not written here; where it is to read the file:
    `torch.save(safetensors.torch.load_file("model.safetensors"), "pytorch_model.bin")`.

    Raises:
        ArtifactError: the model has parts for which theirs has no place.
    """
    model = pretrained.model
    if not isinstance(model, Multimodal):
        raise ArtifactError(f"layout vilbert: only a ViLBERT has a place there, got {type(model).__name__}")
    settings = settings_of(model.config)
    state = _swapped(to_theirs(model.state_dict(), entries(model.config)))
    state |= {name: torch.zeros(shape) for name, shape in _dead(model.config).items()}
    state[TIED] = state[WORDS].clone()  # safetensors keeps no two names of one tensor
    for name in MISSING:
        del state[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    write_weights(folder / "model.safetensors", state)
    if pretrained.tokenizer is not None:
        pretrained.tokenizer.save(folder)
