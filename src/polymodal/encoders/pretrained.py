"""Any image, text or audio encoder of `transformers` as a tower (extra `hf`).

    config, tower = load_transformers("FacebookAI/xlm-roberta-base", "text")

`config` holds the model's own settings, so that it is built again without the source; the weights then come from
wherever a model's weights come from. Only architectures that the installed transformers knows, only safetensors: no
code comes with a checkpoint.
Shapes: B rows; L tokens; T steps of a sound; D width.
"""

import inspect
from collections.abc import Iterable
from itertools import takewhile
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.errors import ArtifactError, ConfigError, ShapeError
from polymodal.layers.pooling import masked_mean
from polymodal.types import Series, Text, Tokens

# Of no use to an encoder here, or of one machine only. `auto_map` names code that comes with a checkpoint.
DROPPED = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "id2label",
    "label2id",
    "torch_dtype",
    "transformers_version",
)
# SpecAugment inside the model draws from numpy's one state, and fails on short sounds.
CHANGED = {"apply_spec_augment": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}

INPUTS = {"pixel_values": "image", "input_ids": "text", "input_features": "audio", "input_values": "audio"}

Modality = Literal["image", "text", "audio"]
Pool = Literal["mean", "first", "pooler"]  # over real tokens; the first token; the model's own


class TransformersConfig(Config):
    """As `load_transformers` gives it."""

    kind: Literal["transformers"] = "transformers"
    reads: Modality
    source: str | None = None  # where the first weights came from, for the record; it is not looked at again
    width: int = Field(ge=1)  # D
    pool: Pool = "mean"
    settings: dict[str, Any]  # the model's own config, "model_type" among them

    def build(self) -> "TransformersEncoder":
        """The tower with random weights.

        Raises:
            ConfigError: transformers is missing or does not know the model, or the model does not fit the config.
        """
        settings = _settings(self.settings)
        try:
            model = _transformers().AutoModel.from_config(settings, dtype=torch.float32)
        except (ValueError, TypeError, RuntimeError) as error:
            name = settings.model_type
            raise ConfigError(f'encoder "transformers": no "{name}" has these settings: {_line(error)}') from None
        return TransformersEncoder(self, _encoder(model))


class TransformersEncoder(nn.Module):
    model: Any

    def __init__(self, config: TransformersConfig, model: Any) -> None:
        """
        Raises:
            ConfigError: the model has another width than the config, or does not read what the config says.
        """
        super().__init__()
        self.config = config
        _check(config, model)
        pooler = getattr(model, "pooler", None)
        if config.pool != "pooler" and isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
            model.pooler = None  # its weights would never learn
        keep_buffers(model)
        self.model = model

    def forward(self, given: Tensor | Text | Series) -> Tokens:
        """Tokens of normalized pixels (B, 3, H, W), of a text, or of a sound.

        Whisper reads log-mel frames (B, T, mels) of its full length; wav2vec 2.0 and its kin read samples (B, T, 1).

        Raises:
            ShapeError: a text is longer than the positions, or a sound does not have the frames or channels wanted.
            ConfigError: the model has no pooling of its own and `pool` asks for it.
        """
        out: Any
        mask: Tensor | None
        match given:
            case Text():
                out, mask = self._text(given)
            case Series():
                out, mask = self._audio(given)
            case _:
                out, mask = self._image(given)
        sequence = out.last_hidden_state
        if sequence.ndim == 4:  # a grid (B, D, H, W)
            sequence = sequence.flatten(2).transpose(1, 2)
        if mask is None:
            mask = torch.ones(sequence.shape[:2], dtype=torch.bool, device=sequence.device)
        return Tokens(sequence, mask, self._pool(out, sequence, mask))

    def _pool(self, out: Any, sequence: Tensor, mask: Tensor) -> Tensor:
        match self.config.pool:
            case "mean":
                return masked_mean(sequence, mask)
            case "first":
                return sequence[:, 0]
            case "pooler":
                if (pooled := getattr(out, "pooler_output", None)) is None:
                    name = self.model.config.model_type
                    raise ConfigError(f'encoder "transformers": a "{name}" has no pooling of its own; set pool=mean')
                return torch.flatten(pooled, 1)

    def _text(self, text: Text) -> tuple[Any, Tensor]:
        most = max_length(self.model)
        if most is not None and text.ids.shape[1] > most:
            raise ShapeError(
                f"text encoder: at most {most} tokens have positions, got {text.ids.shape[1]}; "
                f"set preprocess.text.max_length to {most} or less"
            )
        seen = text.mask | ~text.mask.any(1, keepdim=True)  # a text of nothing looks at everything, as in layers/
        return self.model(input_ids=text.ids, attention_mask=seen.long()), text.mask

    def _image(self, pixels: Tensor) -> tuple[Any, None]:
        other_sizes = "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters
        return self.model(pixel_values=pixels, **({"interpolate_pos_encoding": True} if other_sizes else {})), None

    def _audio(self, sound: Series) -> tuple[Any, Tensor]:
        settings, (_, length, channels) = self.model.config, sound.values.shape
        if settings.model_type == "whisper":
            wanted = 2 * settings.max_source_positions, settings.num_mel_bins
            if (length, channels) != wanted:
                raise ShapeError(
                    f"audio encoder: wanted {wanted[0]} frames of {wanted[1]} mels, got {length} of {channels}; "
                    "set preprocess.audio.pad_to_max and preprocess.audio.mels"
                )
            out = self.model(input_features=sound.values.transpose(1, 2))
            return out, sound.mask[:, ::2]
        if channels != 1:
            raise ShapeError(f"audio encoder: wanted the samples of a sound, in 1 channel, got {channels} channels")
        return self._samples(sound)

    def _samples(self, sound: Series) -> tuple[Any, Tensor]:
        # Sounds too short for a single token are read as if zeros followed.
        least = shortest(self.model.config.conv_kernel, self.model.config.conv_stride)
        values = sound.values[:, :, 0].masked_fill(~sound.mask, 0.0)
        values = nn.functional.pad(values, (0, max(0, least - values.shape[1])))
        lengths = sound.mask.sum(1).clamp(min=least)
        given = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
        out = self.model(input_values=values, attention_mask=given.long())
        tokens = self.model._get_feat_extract_output_lengths(lengths)
        places = torch.arange(out.last_hidden_state.shape[1], device=values.device)
        return out, places < tokens[:, None]

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: before the largest stack of layers, each layer, after it."""
        stacks = [part for part in self.model.modules() if isinstance(part, nn.ModuleList)]
        if not stacks:
            return [list(self.model.parameters())]
        largest = max(stacks, key=lambda stack: sum(parameter.numel() for parameter in stack.parameters()))
        inside = {id(parameter) for parameter in largest.parameters()}
        everything = list(self.model.parameters())
        before = list(takewhile(lambda parameter: id(parameter) not in inside, everything))
        after = [parameter for parameter in everything[len(before) :] if id(parameter) not in inside]
        return [before, *(list(layer.parameters()) for layer in largest), after]


def load_transformers(
    source: str, reads: Modality, pool: Pool = "mean"
) -> tuple[TransformersConfig, TransformersEncoder]:
    """The encoder of a checkpoint with its weights, and the config that builds it again.

    Of an encoder and a decoder (Whisper, T5) it is the encoder.

    Args:
        source: a folder, or a name on the hub, which is fetched into the cache of huggingface_hub.
        pool: what the pooled vector is: the mean over real tokens, the first token, or the model's own pooling.

    Raises:
        ConfigError: transformers is missing, does not know the architecture, or its model does not read `reads`.
        ArtifactError: there is no such source, it has no safetensors, or its weights do not fill the model.
    """
    transformers = _transformers()
    try:
        plain, _ = transformers.PretrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{source}: wanted a folder or a name on the hub with config.json: {_line(error)}"
        ) from None
    settings = _settings(plain)
    kept = {key: value for key, value in settings.to_dict().items() if key not in DROPPED}
    config = TransformersConfig(reads=reads, source=source, width=_width(settings), pool=pool, settings=kept)
    try:
        model, found = transformers.AutoModel.from_pretrained(
            source, config=settings, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{source}: wanted model.safetensors of this model: {_line(error)}") from None
    unused = ("decoder.",) if pool == "pooler" else ("decoder.", "pooler.")
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(unused))
    if missing:
        raise ArtifactError(f"{source}: {len(missing)} weights that the model wants are missing, first: {missing[0]}")
    return config, TransformersEncoder(config, _encoder(model)).eval()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            'encoder "transformers": transformers is not installed; `pip install "polymodal[hf]"`'
        ) from None
    return transformers


def _settings(plain: dict[str, Any]) -> Any:
    """transformers' config of these values, for an encoder of ours."""
    transformers = _transformers()
    from huggingface_hub.errors import StrictDataclassError  # transformers brings a version that has it

    kept = {key: value for key, value in plain.items() if key not in DROPPED}
    name = kept.pop("model_type", None)
    if name not in transformers.models.auto.modeling_auto.MODEL_MAPPING_NAMES:
        raise ConfigError(f'encoder "transformers": transformers {transformers.__version__} has no model type "{name}"')
    try:
        settings = transformers.AutoConfig.for_model(name, **kept)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise ConfigError(f'encoder "transformers": the settings are none of a "{name}": {_line(error)}') from None
    for key, value in CHANGED.items():
        if hasattr(settings, key):
            setattr(settings, key, value)
    if settings.sub_configs:
        raise ConfigError(
            f'encoder "transformers": wanted a single tower, got a "{name}", which has {len(settings.sub_configs)}; '
            "polymodal reads CLIP, Chinese-CLIP and SigLIP by itself"
        )
    return settings


def _encoder(model: Any) -> Any:
    return model.get_encoder() if model.config.is_encoder_decoder else model


def _width(settings: Any) -> int:
    if getattr(settings, "add_adapter", False):  # wav2vec 2.0
        return int(settings.output_hidden_size)
    return int(settings.hidden_size if hasattr(settings, "hidden_size") else settings.hidden_sizes[-1])


def _check(config: TransformersConfig, model: Any) -> None:
    name, width = model.config.model_type, _width(model.config)
    if width != config.width:
        raise ConfigError(f'encoder "transformers": width must be {width}, that of the settings, got {config.width}')
    if INPUTS.get(model.main_input_name) != config.reads:
        raise ConfigError(
            f'encoder "transformers": a "{name}" reads {model.main_input_name}, which is no {config.reads}'
        )
    if config.reads == "audio" and name != "whisper" and not hasattr(model.config, "conv_kernel"):
        raise ConfigError(
            f'encoder "transformers": of audio Whisper and readers of samples (wav2vec 2.0) work, got "{name}"'
        )


def keep_buffers(model: nn.Module) -> None:
    """Put every buffer into the state dict: an artifact is loaded into a model that was built without memory."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, buffer.clone(), persistent=True)


def max_length(model: Any) -> int | None:
    """Tokens for which a text model has positions; None: any number."""
    most = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(most - module.padding_idx - 1)  # RoBERTa counts from behind the padding's place
    return most


def shortest(kernels: Iterable[int], strides: Iterable[int]) -> int:
    """Samples that a stack of convolutions makes one token of."""
    length = 1
    for kernel, stride in reversed(list(zip(kernels, strides, strict=True))):
        length = (length - 1) * stride + kernel
    return length


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
