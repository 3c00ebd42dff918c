"""Every model known by name: one table of name -> config.

Sizes: openai/CLIP clip/clip.py and open_clip's model_configs; arXiv:2303.15343 and google's released configs (SigLIP);
arXiv:2211.01335 table 1 (Chinese-CLIP); arXiv:2111.07991 (LiT); arXiv:2212.04356 table 1 (Whisper, its encoder). The
"tiny" ones of ours are for two processor cores.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from polymodal.encoders import (
    BertConfig,
    ClipResnetConfig,
    EfficientNetLiteConfig,
    ImageEncoderConfig,
    LstmConfig,
    ResnetConfig,
    TextEncoderConfig,
    TextTransformerConfig,
    VitConfig,
    WhisperConfig,
)
from polymodal.errors import ConfigError, did_you_mean
from polymodal.layers.skeleton import skeleton
from polymodal.models.albef import albef_base, albef_tiny
from polymodal.models.clip import ClipConfig, ProjectionConfig, projection
from polymodal.models.lxmert import lxmert, lxmert_tiny
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.vilbert import vilbert_base, vilbert_tiny
from polymodal.models.vilt import vilt, vilt_tiny
from polymodal.models.visualbert import visualbert, visualbert_tiny

T = TypeVar("T")


def clip_text(width: int = 512, layers: int = 12) -> TextTransformerConfig:
    return TextTransformerConfig(width=width, layers=layers, heads=width // 64)


def vit_l(image_size: int = 224) -> VitConfig:
    return VitConfig(image_size=image_size, patch_size=14, width=1024, layers=24, heads=16)


def clip_resnet(
    image_size: int, layers: tuple[int, int, int, int], stem: int, text_width: int, width: int
) -> ClipConfig:
    image = ClipResnetConfig(image_size=image_size, layers=layers, stem=stem, width=width)
    return ClipConfig(image=image, text=clip_text(text_width), width=width, image_projection=None)


def siglip(image_size: int, patch_size: int = 16, width: int = 768, layers: int = 12, heads: int = 12) -> ClipConfig:
    mlp_width = 4304 if width == 1152 else None  # SO400M was sized by compute, not by the rule of four
    image = VitConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp_width,
        activation="gelu_tanh",
        eps=1e-6,
        class_token=False,
        patch_bias=True,
        pre_norm=False,
        pool="map",
    )
    text = TextTransformerConfig(
        vocab_size=32000,
        max_length=64,
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp_width,
        activation="gelu_tanh",
        eps=1e-6,
        causal=False,
        head=True,
    )
    # No ceiling in the source, and its released scales lie above 100.
    return ClipConfig(image=image, text=text, width=None, temperature=0.1, bias=-10.0, max_scale=1000.0)


def chinese_bert(width: int = 768, layers: int = 12) -> BertConfig:
    return BertConfig(vocab_size=21128, width=width, layers=layers, heads=width // 64, dropout=0.1)


def plain_vit(patch_size: int, width: int, layers: int, heads: int, image_size: int = 224) -> VitConfig:
    return VitConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        layers=layers,
        heads=heads,
        activation="gelu",
        eps=1e-12,
        patch_bias=True,
        pre_norm=False,
    )


def lite(image_size: int, width_multiplier: float, depth_multiplier: float) -> EfficientNetLiteConfig:
    return EfficientNetLiteConfig(
        image_size=image_size, width_multiplier=width_multiplier, depth_multiplier=depth_multiplier
    )


TINY_VIT = VitConfig(image_size=64, patch_size=8, width=128, layers=4, heads=4, activation="gelu")
TINY_TEXT = TextTransformerConfig(vocab_size=8192, max_length=32, width=128, layers=3, heads=4, activation="gelu")
TINY_RESNET = ResnetConfig(image_size=64, block="basic", layers=(1, 1, 1, 1), stem=32)

MODELS: Mapping[str, ClipConfig] = {
    "clip-vit-b32": ClipConfig(image=VitConfig(), text=clip_text()),
    "clip-vit-b16": ClipConfig(image=VitConfig(patch_size=16), text=clip_text()),
    "clip-vit-l14": ClipConfig(image=vit_l(), text=clip_text(768), width=768),
    "clip-vit-l14-336": ClipConfig(image=vit_l(336), text=clip_text(768), width=768),
    "clip-rn50": clip_resnet(224, (3, 4, 6, 3), 64, 512, 1024),
    "clip-rn101": clip_resnet(224, (3, 4, 23, 3), 64, 512, 512),
    "clip-rn50x4": clip_resnet(288, (4, 6, 10, 6), 80, 640, 640),
    "clip-rn50x16": clip_resnet(384, (6, 8, 18, 8), 96, 768, 768),
    "clip-rn50x64": clip_resnet(448, (3, 15, 36, 10), 128, 1024, 1024),
    "siglip-b16-224": siglip(224),
    "siglip-b16-256": siglip(256),
    "siglip-b16-384": siglip(384),
    "siglip-b16-512": siglip(512),
    "siglip-l16-256": siglip(256, width=1024, layers=24, heads=16),
    "siglip-l16-384": siglip(384, width=1024, layers=24, heads=16),
    "siglip-so400m14-384": siglip(384, patch_size=14, width=1152, layers=27, heads=16),
    "chinese-clip-vit-b16": ClipConfig(image=VitConfig(patch_size=16), text=chinese_bert()),
    "chinese-clip-vit-l14": ClipConfig(image=vit_l(), text=chinese_bert(), width=768),
    "chinese-clip-vit-l14-336": ClipConfig(image=vit_l(336), text=chinese_bert(), width=768),
    "chinese-clip-vit-h14": ClipConfig(
        image=VitConfig(patch_size=14, width=1280, layers=32, heads=16), text=chinese_bert(1024, 24), width=1024
    ),
    "chinese-clip-rn50": ClipConfig(
        image=ClipResnetConfig(), text=chinese_bert(768, 3), width=1024, image_projection=None
    ),
    "lit-vit-b16": ClipConfig(
        image=plain_vit(16, 768, 12, 12), text=BertConfig(), width=768, image_projection=None, temperature=0.1
    ),
    "lit-vit-l16": ClipConfig(
        image=plain_vit(16, 1024, 24, 16), text=BertConfig(), width=1024, image_projection=None, temperature=0.1
    ),
    "clip-tiny": ClipConfig(image=TINY_VIT, text=TINY_TEXT, width=128),
    "clip-tiny-resnet": ClipConfig(image=TINY_RESNET, text=TINY_TEXT, width=128),
    "clip-tiny-lstm": ClipConfig(
        image=TINY_VIT, text=LstmConfig(vocab_size=8192, width=128, embedding_width=128), width=128
    ),
    "chinese-clip-tiny": ClipConfig(
        image=TINY_VIT, text=BertConfig(vocab_size=8192, max_length=32, width=128, layers=3, heads=4), width=128
    ),
    "siglip-tiny": ClipConfig(image=TINY_VIT, text=TINY_TEXT, width=128, temperature=0.1, bias=-10.0, max_scale=1000.0),
}

Tower = ImageEncoderConfig | TextEncoderConfig | WhisperConfig

ENCODERS: Mapping[str, Tower] = {
    "vit-ti16": plain_vit(16, 192, 12, 3),
    "vit-s16": plain_vit(16, 384, 12, 6),
    "vit-b32": plain_vit(32, 768, 12, 12),
    "vit-b16": plain_vit(16, 768, 12, 12),
    "vit-l16": plain_vit(16, 1024, 24, 16),
    "resnet18": ResnetConfig(block="basic", layers=(2, 2, 2, 2)),
    "resnet34": ResnetConfig(block="basic"),
    "resnet50": ResnetConfig(),
    "resnet101": ResnetConfig(layers=(3, 4, 23, 3)),
    "resnet152": ResnetConfig(layers=(3, 8, 36, 3)),
    "efficientnet-lite0": lite(224, 1.0, 1.0),
    "efficientnet-lite1": lite(240, 1.0, 1.1),
    "efficientnet-lite2": lite(260, 1.1, 1.2),
    "efficientnet-lite3": lite(280, 1.2, 1.4),
    "efficientnet-lite4": lite(300, 1.4, 1.8),
    "bert-base": BertConfig(),
    "bert-base-chinese": BertConfig(vocab_size=21128),
    "minilm-l6": BertConfig(width=384, layers=6, heads=12, pool="mean"),
    "whisper-tiny": WhisperConfig(),
    "whisper-base": WhisperConfig(width=512, layers=6, heads=8),
    "whisper-small": WhisperConfig(width=768, layers=12, heads=12),
}

# Models whose inputs meet in a fusion: made when asked for, since such a config proves that its parts fit.
JOINT: Mapping[str, Callable[[], MultimodalConfig]] = {
    "vilbert": vilbert_base,
    "vilbert-tiny": vilbert_tiny,
    "lxmert": lxmert,
    "lxmert-tiny": lxmert_tiny,
    "vilt": vilt,
    "vilt-tiny": vilt_tiny,
    "visualbert": visualbert,
    "visualbert-tiny": visualbert_tiny,
    "albef": albef_base,
    "albef-tiny": albef_tiny,
}


def config(name: str) -> ClipConfig | MultimodalConfig:
    """The config of a model by its name.

    Raises:
        ConfigError: no model has this name.
    """
    if name in JOINT:
        return JOINT[name]()
    return _look_up(MODELS, name, "model", near=(*MODELS, *JOINT))


def encoder_config(name: str) -> Tower:
    """The config of a single tower by its name.

    Raises:
        ConfigError: no tower has this name.
    """
    return _look_up(ENCODERS, name, "encoder")


def _look_up(table: Mapping[str, T], name: str, what: str, near: Iterable[str] = ()) -> T:
    if name not in table:
        known = did_you_mean(name, near or table)
        raise ConfigError(f'no {what} is named "{name}"{known}; `polymodal models` lists them all')
    return table[name]


def sizes(name: str) -> dict[str, str | int | None]:
    """What one wants to know before choosing: kinds of the towers, pixels, tokens, width of the vectors, parameters.

    Raises:
        ConfigError: nothing has this name.
    """
    found: Any = ENCODERS.get(name) or config(name)
    parts: tuple[Any, ...]
    image_count = text_count = None
    if isinstance(found, ClipConfig):
        parts, width = (found.image, found.text), found.shared_width
        image_count = parameter_count(found.image) + projection_count(found.image_projection, found.image.width, found)
        text_count = parameter_count(found.text) + projection_count(found.text_projection, found.text.width, found)
        count = image_count + text_count + 1 + int(found.bias is not None)  # 1: the scale
    elif isinstance(found, MultimodalConfig):
        model = skeleton(found.build)
        parts, width = tuple(found.encoders.values()), int(model.fusion.width)
        count = sum(parameter.numel() for parameter in model.parameters())
    else:
        parts, width, count = (found,), found.width, parameter_count(found)
    by_kind: dict[str, Any] = {"image" if part.reads == "regions" else part.reads: part for part in parts}
    image, text, audio = (by_kind.get(kind) for kind in ("image", "text", "audio"))
    return {
        "name": name,
        "image": None if image is None else image.kind,
        "text": None if text is None else text.kind,
        "audio": None if audio is None else audio.kind,
        "image_size": getattr(image, "image_size", None),
        "max_length": getattr(text or audio, "max_length", None),
        "width": width,
        "parameters": count,
        "image_parameters": image_count,
        "text_parameters": text_count,
    }


@cache  # many models share a tower
def parameter_count(tower: Tower) -> int:
    return sum(parameter.numel() for parameter in skeleton(tower.build).parameters())


def projection_count(kind: ProjectionConfig | None, width: int, found: ClipConfig) -> int:
    if found.width is None:
        return 0
    built = skeleton(lambda: projection(kind, width, found.shared_width))
    return sum(parameter.numel() for parameter in built.parameters())
