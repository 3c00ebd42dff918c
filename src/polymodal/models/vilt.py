"""ViLT: words and bare patches of pixels in one Transformer, without a detector or an image encoder.

Source: Kim et al. 2021, arXiv:2102.03334; code dandelin/ViLT; transformers `ViltModel`. Two things of theirs are not
done here: pictures of several shapes in one batch (ours are square, so every patch is real), and a random choice of
patches in training. For other sizes than the configured one, positions interpolate bicubically without corner
alignment; theirs do so bilinearly with it.
"""

from collections.abc import Mapping

from polymodal.encoders.bert import BertConfig
from polymodal.encoders.vit import VitConfig
from polymodal.fusion.early import EarlyConfig
from polymodal.layers.mlp import Activation
from polymodal.models.heads import HeadConfig, HeadsConfig
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import MaskedTextHeadConfig, MatchingHeadConfig, PretrainingHeadConfig


def vilt(
    *,
    vocab_size: int = 30522,
    max_length: int = 40,
    segments: int = 2,
    image_size: int = 384,
    patch_size: int = 32,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    mlp_width: int | None = None,
    activation: Activation = "gelu",
    eps: float = 1e-12,
    dropout: float = 0.0,
    targets: Mapping[str, HeadConfig] | None = None,
    pretraining: Mapping[str, PretrainingHeadConfig] | None = None,
) -> MultimodalConfig:
    """ViLT's config; the defaults are ViLT-B/32. Inputs: text, image (pixels).

    Args:
        targets: heads on the joint state; ViLT's own for answers is `MlpHead(outputs=..., norm="pre", eps=1e-5)`.
        pretraining: heads that only objectives run; None: masked text and matching.
    """
    sizes = {"width": width, "heads": heads, "eps": eps}
    text = {**sizes, "vocab_size": vocab_size, "max_length": max_length, "segments": segments, "layers": 0}
    image = {
        **sizes,
        "image_size": image_size,
        "patch_size": patch_size,
        "patch_bias": True,
        "pre_norm": False,
        "post_norm": False,
        "layers": 0,
    }
    joint = {"layers": layers, "mlp_width": mlp_width, "activation": activation, "dropout": dropout, "pool": "pooler"}
    if pretraining is None:
        pretraining = {"masked_text": MaskedTextHeadConfig(eps=eps), "matching": MatchingHeadConfig()}
    return MultimodalConfig(
        encoders={"text": BertConfig.parse(text, "vilt"), "image": VitConfig.parse(image, "vilt")},
        fusion=EarlyConfig.parse({**sizes, **joint}, "vilt"),
        heads=HeadsConfig(targets=dict(targets or {})),
        pretraining=dict(pretraining),
    )


def vilt_tiny(vocab_size: int = 8192, image_size: int = 64) -> MultimodalConfig:
    """For two processor cores."""
    return vilt(vocab_size=vocab_size, max_length=32, image_size=image_size, patch_size=8, width=128, layers=4, heads=4)
