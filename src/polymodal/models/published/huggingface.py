"""Folders as transformers (and sentence-transformers) write and read them."""

import json
from pathlib import Path
from typing import Any

from polymodal.encoders.bert import Bert, BertConfig
from polymodal.encoders.text_transformer import TextTransformerConfig
from polymodal.encoders.vit import Vit, VitConfig
from polymodal.encoders.whisper import WhisperConfig
from polymodal.errors import ArtifactError, ConfigError
from polymodal.layers.skeleton import skeleton
from polymodal.models.clip import Clip, ClipConfig
from polymodal.models.multimodal import Multimodal, MultimodalConfig
from polymodal.models.published import (
    hf_bert,
    hf_clip,
    hf_joint,
    hf_lxmert,
    hf_preprocess,
    hf_vilt,
    hf_visualbert,
    hf_vit,
    hf_whisper,
)
from polymodal.models.published.keymap import Entry, State, to_theirs
from polymodal.models.published.pretrained import Pretrained, end_token, fill
from polymodal.models.published.weights import read_json, read_weights, write_weights
from polymodal.preprocess import ImagePreprocess, Preprocess, TextPreprocess
from polymodal.text import Tokenizer

JOINT: dict[str, Any] = {"lxmert": hf_lxmert, "vilt": hf_vilt, "visual_bert": hf_visualbert}  # a text and a picture
KNOWN = ("clip", "siglip", "chinese_clip", "vit", "bert", "whisper", *JOINT)
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")
UNLIMITED = 10**6  # tokenizer_config.json writes 1e30 for "no limit"


def load(folder: Path, settings: dict[str, Any]) -> Pretrained:
    """The model of a folder whose config.json holds `settings`.

    Raises:
        ArtifactError: the model type is not known, a file is damaged, or weights and config do not belong together.
    """
    kind = settings.get("model_type")
    if kind not in KNOWN:
        hint = "; this is an artifact of polymodal, load it with pm.load" if "kind" in settings else ""
        raise ArtifactError(f'{folder}: model_type "{kind}" is not known; known: {", ".join(KNOWN)}{hint}')
    if kind == "whisper":
        return hf_whisper.load(folder, settings)
    state = _plain(read_weights(folder), kind, str(folder))
    try:
        config, heads = _config(folder, settings, kind, state)
    except ConfigError as error:
        raise ArtifactError(f"{folder}: config.json asks for a model that is not supported: {error}") from None
    model: Any = skeleton(config.build)
    left_out = fill(model, state, _entries(config), heads, str(folder))
    has_tokenizer = kind != "vit" and any((folder / name).is_file() for name in TOKENIZER_FILES)
    tokenizer = Tokenizer.load(folder) if has_tokenizer else None
    answers = hf_joint.answers(settings, config) if isinstance(config, MultimodalConfig) else ()
    return Pretrained(model, tokenizer, _preprocess(folder, kind, config), left_out, answers=answers)


def _plain(state: State, kind: str, where: str) -> State:
    """Without what follows from the config (position_ids), prefixes of task models, and names of 2018."""
    found = {}
    for name, tensor in state.items():
        if name.endswith("position_ids"):
            continue
        name = name.removeprefix(f"{kind}.") if kind in ("vit", "bert") else name
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        found[name] = tensor
    return JOINT[kind].plain(found, where) if kind in JOINT else found


def _config(
    folder: Path, settings: dict[str, Any], kind: str, state: State
) -> tuple[ClipConfig | VitConfig | BertConfig | MultimodalConfig, tuple[str, ...]]:
    """The config, and the prefixes of heads that may be left out."""
    if kind in JOINT:
        return JOINT[kind].config_of(settings, state), JOINT[kind].LEFT_OUT
    if kind == "bert":
        pool = _sentence_pool(folder) or ("pooler" if "pooler.dense.weight" in state else "cls")
        return hf_bert.config_of(settings, pool), (*hf_bert.HEADS, *(("pooler.",) if pool != "pooler" else ()))
    if kind == "vit":
        has_pooler = "pooler.dense.weight" in state
        return hf_vit.config_of(settings, "tanh" if has_pooler else "cls"), hf_vit.HEADS
    family: hf_clip.Family = kind  # type: ignore[assignment]
    return hf_clip.config_of(settings, family), ("text_model.pooler.",) if kind == "chinese_clip" else ()


def _sentence_pool(folder: Path) -> str | None:
    """How a sentence-transformers folder pools, or None for a plain folder."""
    if not (folder / "modules.json").is_file():
        return None
    path = folder / "1_Pooling" / "config.json"
    asked = read_json(path)
    on = sorted(key for key, value in asked.items() if key.startswith("pooling_mode") and value is True)
    pools = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    mode = asked.get("pooling_mode")  # version 6 writes one word
    names = [pools[key] for key in on if key in pools] if on else [mode] if mode in ("mean", "cls") else []
    if len(names) != 1 or len(on) > 1:
        raise ArtifactError(f"{path}: wanted pooling by mean or by the first token, got {on or mode}")
    return names[0]


def _entries(config: ClipConfig | VitConfig | BertConfig | MultimodalConfig) -> list[Entry]:
    if isinstance(config, MultimodalConfig):
        found: list[Entry] = _family(config).entries(config)
        return found
    if isinstance(config, ClipConfig):
        return hf_clip.entries(config)
    return hf_vit.entries(config) if isinstance(config, VitConfig) else hf_bert.entries(config)


def _family(config: MultimodalConfig) -> Any:
    """The module of `JOINT` whose models are made of the same parts."""
    encoders = [encoder.kind for encoder in config.encoders.values()]
    for family in JOINT.values():
        if list(config.encoders) == ["text", "image"] and (*encoders, config.fusion.kind) == family.PARTS:
            return family
    raise ArtifactError(
        f"layout hf: transformers has no model with inputs {', '.join(config.encoders)} ({', '.join(encoders)}) and "
        f"fusion {config.fusion.kind}; LXMERT, ViLT and VisualBERT have a place there; save others as an artifact"
    )


def _preprocess(folder: Path, kind: str, config: ClipConfig | VitConfig | BertConfig | MultimodalConfig) -> Preprocess:
    image, text = ImagePreprocess(), TextPreprocess()
    if isinstance(config, ClipConfig):
        image = hf_preprocess.read(folder, kind, config.image.image_size)
        text = _text_preprocess(folder, config.text, pad=kind == "siglip")
    elif isinstance(config, VitConfig):
        image = hf_preprocess.read(folder, kind, config.image_size)
    elif isinstance(config, MultimodalConfig):
        text = _text_preprocess(folder, config.encoders["text"], pad=False)
        picture = config.encoders["image"]
        image = hf_preprocess.read(folder, kind, picture.image_size) if isinstance(picture, VitConfig) else image
    else:
        text = _text_preprocess(folder, config, pad=False)
    return Preprocess(image=image, text=text)


def _text_preprocess(folder: Path, config: Any, pad: bool) -> TextPreprocess:
    length = config.max_length
    for name, key in (("tokenizer_config.json", "model_max_length"), ("sentence_bert_config.json", "max_seq_length")):
        if (folder / name).is_file():
            asked = read_json(folder / name).get(key)
            length = min(length, int(asked)) if asked and asked < UNLIMITED else length
    return TextPreprocess(max_length=length, pad_to_max=pad)


def save(pretrained: Pretrained, folder: Path) -> None:
    """Write a folder that transformers' `from_pretrained` reads.

    Raises:
        ArtifactError: the model has parts that no model of transformers has.
    """
    if isinstance(pretrained.config, WhisperConfig):
        hf_whisper.save(pretrained, folder)
        return
    config = _with_end_token(pretrained.config, pretrained.tokenizer)
    model = pretrained.model
    assert isinstance(model, Clip | Vit | Bert | Multimodal)
    if isinstance(model, Multimodal):
        settings, state = _joint(model)
        settings |= hf_joint.labels(model.config, pretrained.answers)
    else:
        settings, state = _settings(config), to_theirs(model.state_dict(), _entries(config))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "config.json", settings)
    write_weights(folder / "model.safetensors", state)
    kind = settings["model_type"]
    if kind in hf_preprocess.PROCESSORS:
        _write(folder / "preprocessor_config.json", hf_preprocess.written(pretrained.preprocess.image, kind))
    if isinstance(config, BertConfig) and config.pool == "mean":
        _write_sentence_transformer(folder, config, pretrained.preprocess.text.max_length)
    if pretrained.tokenizer is not None:
        pretrained.tokenizer.save(folder)
        _write(folder / "tokenizer_config.json", _tokenizer_settings(pretrained.tokenizer, pretrained.preprocess.text))


def _with_end_token(config: Any, tokenizer: Tokenizer | None) -> Any:
    """transformers finds a causal text's end by an id; ours may read the last real token, which is the same place."""
    if not (isinstance(config, ClipConfig) and isinstance(config.text, TextTransformerConfig)):
        return config
    text = config.text
    if not text.causal or text.pool != "last" or tokenizer is None:
        return config
    end = end_token(tokenizer)
    if end is None:
        return config
    return config.model_copy(update={"text": text.model_copy(update={"pool": "eos", "eos_token_id": end})})


def _settings(config: Any) -> dict[str, Any]:
    """Their settings, proved by reading them back: a field that does not survive has no place there."""
    if isinstance(config, BertConfig):
        settings = {"model_type": "bert", "architectures": ["BertModel"], **hf_bert.settings_of(config)}
        return _proved(settings, config, hf_bert.config_of(settings, config.pool))
    if isinstance(config, VitConfig) and config.pool in ("cls", "tanh"):
        settings = {"model_type": "vit", "architectures": ["ViTModel"], **hf_vit.settings_of(config)}
        return _proved(settings, config, hf_vit.config_of(settings, config.pool))
    if not isinstance(config, ClipConfig):
        raise ArtifactError(f"layout hf: transformers has no model for a {config.kind} of this kind")
    if not isinstance(config.image, VitConfig):
        raise ArtifactError(f'layout hf: transformers has no CLIP with a {config.image.kind}; take layout "openai"')
    if config.text.kind == "lstm":
        raise ArtifactError("layout hf: transformers has no CLIP with an lstm")
    settings = hf_clip.settings_of(config)
    return _proved(settings, config, hf_clip.config_of(settings, hf_clip.family_of(config)))


def _joint(model: Multimodal) -> tuple[dict[str, Any], State]:
    """Their settings and weights. Learned tokens for absent inputs, which theirs do not know, stay behind."""
    family = _family(model.config)
    settings, entries, ours = family.settings_of(model.config), family.entries(model.config), model.state_dict()
    if lacking := sorted({name for entry in entries for name in entry.ours} - ours.keys()):
        raise ArtifactError(
            f"layout hf: {settings['architectures'][0]} must have {', '.join(lacking)}, which the model has not; "
            "a part of it is of another kind"
        )
    state = to_theirs(ours, entries)
    config = model.config.model_copy(update={"input_dropout": 0.0})  # a matter of training
    _proved(settings, config, family.config_of(settings, state))
    return settings, family.written(state)


def _proved(settings: dict[str, Any], config: Any, back: Any) -> dict[str, Any]:
    free = {"temperature", "max_scale", "learn_temperature", "bias"}  # where training starts; the weights say the rest
    lost = sorted(_differences(config.to_dict(), back.to_dict(), free))
    if isinstance(config, ClipConfig) and (config.bias is None) != (back.bias is None):
        lost.append("bias" if back.bias is None else "no bias")
    if lost:
        raise ArtifactError(f"layout hf: {settings['architectures'][0]} cannot have {', '.join(lost)}")
    return settings


def _differences(ours: dict[str, Any], theirs: dict[str, Any], free: set[str], under: str = "") -> list[str]:
    found = []
    for key, value in ours.items():
        other = theirs.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            found += _differences(value, other, set(), f"{under}{key}.")
        elif key == "mlp_width" and value is None and other is not None:
            found += [] if other == 4 * ours["width"] else [f"{under}{key}"]
        elif key not in free and value != other:
            found.append(f"{under}{key} {json.dumps(value)}")
    return found


def _tokenizer_settings(tokenizer: Tokenizer, text: TextPreprocess) -> dict[str, Any]:
    # This class takes tokenizer.json as it stands; the named ones build their own rules around its vocabulary.
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": text.max_length,
        "pad_token": tokenizer.pad_token,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _write_sentence_transformer(folder: Path, config: BertConfig, max_length: int) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]
    for path in ("1_Pooling", "2_Normalize"):
        (folder / path).mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    _write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": config.width, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
    )


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
