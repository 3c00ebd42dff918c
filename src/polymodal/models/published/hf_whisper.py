"""transformers' WhisperModel on disk: the encoder of it, and its log-mel front end."""

import json
from pathlib import Path
from typing import Any

import torch

from polymodal.encoders.whisper import Whisper, WhisperConfig
from polymodal.errors import ArtifactError, ConfigError
from polymodal.layers.skeleton import skeleton
from polymodal.models.published.hf_bert import ACTIVATIONS, THEIR_ACTIVATIONS
from polymodal.models.published.keymap import BlockNames, Entry, State, affine, same, to_theirs
from polymodal.models.published.pretrained import Pretrained, fill
from polymodal.models.published.weights import read_json, read_weights, write_weights
from polymodal.preprocess import AudioPreprocess, Preprocess

DEFAULTS: dict[str, Any] = {
    "num_mel_bins": 80,
    "max_source_positions": 1500,
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "activation_function": "gelu",
    "dropout": 0.0,
}
FRONT_END: dict[str, Any] = {
    "sampling_rate": 16000,
    "n_fft": 400,
    "hop_length": 160,
    "padding_value": 0.0,
    "dither": 0.0,
}
PLACES = 50  # positions a second
BLOCK = BlockNames(
    norm1="self_attn_layer_norm",
    qkv=("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."),
    out="self_attn.out_proj",
    norm2="final_layer_norm",
    fc1="fc1",
    fc2="fc2",
)
HEADS = ("decoder.", "proj_out.", "projector.", "classifier.", "layer_weights")
KEY_BIAS = "encoder.layers.{}.self_attn.k_proj.bias"


def config_of(settings: dict[str, Any]) -> WhisperConfig:
    read = DEFAULTS | settings
    return WhisperConfig.parse(
        {
            "mels": read["num_mel_bins"],
            "max_length": read["max_source_positions"],
            "width": read["d_model"],
            "layers": read["encoder_layers"],
            "heads": read["encoder_attention_heads"],
            "mlp_width": read["encoder_ffn_dim"],
            "activation": ACTIVATIONS.get(read["activation_function"], read["activation_function"]),
            "dropout": read["dropout"],
        },
        "config.json",
    )


def settings_of(config: WhisperConfig) -> dict[str, Any]:
    """The decoder, of which there are no weights, is as large as the encoder, as in every released Whisper."""
    mlp_width = config.mlp_width or 4 * config.width
    sizes = {"layers": config.layers, "attention_heads": config.heads, "ffn_dim": mlp_width}
    return {
        "num_mel_bins": config.mels,
        "max_source_positions": config.max_length,
        "d_model": config.width,
        **{f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sizes.items()},
        "activation_function": THEIR_ACTIVATIONS[config.activation],
        "dropout": config.dropout,
    }


def entries(config: WhisperConfig) -> list[Entry]:
    return [
        *affine("conv1", "encoder.conv1"),
        *affine("conv2", "encoder.conv2"),
        same("positions", "encoder.embed_positions.weight"),
        *BLOCK.entries("blocks", "encoder.layers", config.layers),
        *affine("post_norm", "encoder.layer_norm"),
    ]


def plain(state: State, config: WhisperConfig) -> State:
    """Names as WhisperModel's, and biases of zero for the keys, which Whisper's have none.

    A bias of the keys adds one number to all scores of a query, which softmax does not see: with and without it the
    encoder is the same function.
    """
    found = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    if "conv1.weight" in found:  # WhisperEncoder by itself
        found = {f"encoder.{name}": tensor for name, tensor in found.items()}
    return found | {KEY_BIAS.format(layer): torch.zeros(config.width) for layer in range(config.layers)}


def load(folder: Path, settings: dict[str, Any]) -> Pretrained:
    """The encoder of a folder whose config.json holds `settings`; what belongs to the decoder is left out and named."""
    try:
        config = config_of(settings)
    except ConfigError as error:
        raise ArtifactError(f"{folder}: config.json asks for a model that is not supported: {error}") from None
    model: Whisper = skeleton(config.build)
    left_out = fill(model, plain(read_weights(folder), config), entries(config), HEADS, str(folder))
    return Pretrained(model, None, Preprocess(audio=read_front_end(folder, config)), left_out)


def save(pretrained: Pretrained, folder: Path) -> None:
    """Write the encoder as a folder of WhisperModel, whose decoder transformers then starts at random.

    SpecAugment, which is a matter of training, is not written.

    Raises:
        ArtifactError: the sounds go through a front end that is not Whisper's.
    """
    model = pretrained.model
    assert isinstance(model, Whisper)
    front_end = written_front_end(pretrained.preprocess.audio, model.config)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"model_type": "whisper", "architectures": ["WhisperModel"], **settings_of(model.config)}
    for name, content in (("config.json", settings), ("preprocessor_config.json", front_end)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    state = to_theirs(model.state_dict(), entries(model.config))
    for layer in range(model.config.layers):
        del state[KEY_BIAS.format(layer)]
    write_weights(folder / "model.safetensors", state)


def read_front_end(folder: Path, config: WhisperConfig) -> AudioPreprocess:
    """What the folder's preprocessor_config.json, or processor_config.json, asks for; Whisper's where it is silent.

    Raises:
        ArtifactError: it is not Whisper's front end, or does not fit the encoder.
    """
    path = folder / "preprocessor_config.json"
    asked = read_json(path) if path.is_file() else {}
    if not asked and (folder / "processor_config.json").is_file():
        path = folder / "processor_config.json"
        asked = read_json(path).get("feature_extractor", {})
    wanted = FRONT_END | _fitting(config)
    if wrong := [
        f"{key} {asked[key]}, wanted {value}" for key, value in wanted.items() if asked.get(key, value) != value
    ]:
        raise ArtifactError(f"{path}: {'; '.join(wrong)}: other front ends are not supported")
    return AudioPreprocess(seconds=config.max_length / PLACES, mels=config.mels, pad_to_max=True)


def written_front_end(preprocess: AudioPreprocess, config: WhisperConfig) -> dict[str, Any]:
    """preprocessor_config.json.

    Raises:
        ArtifactError: transformers' front end could not do the same.
    """
    needed = AudioPreprocess(seconds=config.max_length / PLACES, mels=config.mels, pad_to_max=True)
    wrong = [
        f"{key} {value} (wanted {getattr(needed, key)})"
        for key, value in preprocess.to_dict().items()
        if value != getattr(needed, key)
    ]
    if config.max_length % PLACES:
        wrong.append(f"{config.max_length / PLACES:g} seconds (wanted whole ones)")
    if wrong:
        raise ArtifactError(
            f"layout hf: transformers' Whisper cannot have preprocess.audio with {', '.join(wrong)}; "
            "change preprocess.audio before saving if that is meant"
        )
    kind = {"feature_extractor_type": "WhisperFeatureExtractor", "return_attention_mask": False}
    return kind | FRONT_END | _fitting(config)


def _fitting(config: WhisperConfig) -> dict[str, Any]:
    return {"feature_size": config.mels, "chunk_length": config.max_length // PLACES}
