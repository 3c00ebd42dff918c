"""LXMERT: a text stream and a stream of regions, then layers in which both look at each other.

Source: Tan & Bansal 2019, arXiv:1908.07490; code airsplay/lxmert, src/lxrt/modeling.py. Its pre-training had five
losses: masked words, matching, classes, attributes and features of masked regions, and question answering.
"""

from collections.abc import Mapping

from polymodal.encoders.bert import BertConfig
from polymodal.encoders.image import ImageEncoderConfig
from polymodal.encoders.regions import GridRegionsConfig, RegionsConfig
from polymodal.encoders.vit import VitConfig
from polymodal.fusion.crossmodal import CrossModalConfig
from polymodal.layers.mlp import Activation
from polymodal.models.heads import HeadConfig, HeadsConfig
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import (
    MaskedRegionsHeadConfig,
    MaskedTextHeadConfig,
    MatchingHeadConfig,
    PretrainingHeadConfig,
)


def lxmert(
    *,
    vocab_size: int = 30522,
    max_length: int = 512,
    segments: int = 2,
    width: int = 768,
    heads: int = 12,
    mlp_width: int | None = None,
    activation: Activation = "gelu",
    dropout: float = 0.1,
    text_layers: int = 9,
    image_layers: int = 5,
    cross_layers: int = 5,
    feature_width: int = 2048,
    backbone: ImageEncoderConfig | None = None,
    targets: Mapping[str, HeadConfig] | None = None,
    pretraining: Mapping[str, PretrainingHeadConfig] | None = None,
) -> MultimodalConfig:
    """LXMERT's config; the defaults are the published size. Inputs: text, image.

    Args:
        feature_width: of the detector's regions.
        backbone: None: `image` is `Regions`. An image encoder: `image` is pixels and its grid cells are the regions.
        targets: heads on the joint state; LXMERT's own for answers is `MlpHead(outputs=...)` as it stands.
        pretraining: heads that only objectives run; None: masked text, masked regions (their features) and matching.
    """
    sizes = {"width": width, "heads": heads, "mlp_width": mlp_width, "activation": activation, "dropout": dropout}
    text = {"vocab_size": vocab_size, "max_length": max_length, "segments": segments, "layers": text_layers}
    regions = {**sizes, "style": "mean", "layers": image_layers}
    image = (
        RegionsConfig.parse({**regions, "feature_width": feature_width}, "lxmert")
        if backbone is None
        else GridRegionsConfig.parse({**regions, "backbone": backbone}, "lxmert")
    )
    if pretraining is None:
        pretraining = {
            "masked_text": MaskedTextHeadConfig(),
            "matching": MatchingHeadConfig(),
            "masked_regions": MaskedRegionsHeadConfig(input="image", outputs={"features": image.feature_width}),
        }
    return MultimodalConfig(
        encoders={"text": BertConfig.parse({**sizes, **text}, "lxmert"), "image": image},
        fusion=CrossModalConfig.parse({**sizes, "layers": cross_layers}, "lxmert"),
        heads=HeadsConfig(targets=dict(targets or {})),
        pretraining=dict(pretraining),
    )


def lxmert_tiny(vocab_size: int = 8192, image_size: int = 64) -> MultimodalConfig:
    """For two processor cores, from pixels; trained without dropout."""
    backbone = VitConfig(
        image_size=image_size, patch_size=16, width=128, layers=2, heads=4, activation="gelu", dropout=0.0
    )
    return lxmert(
        vocab_size=vocab_size,
        max_length=32,
        width=128,
        heads=4,
        dropout=0.0,
        text_layers=2,
        image_layers=1,
        cross_layers=2,
        backbone=backbone,
    )
