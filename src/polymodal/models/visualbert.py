"""VisualBERT: words and regions in one BERT.

Source: Li et al. 2019, arXiv:1908.03557; code uclanlp/visualbert; transformers `VisualBertModel`. Left out: positions
by the alignment of regions with words, and `bypass_transformer`.
"""

from collections.abc import Mapping
from typing import Literal

from polymodal.encoders.bert import BertConfig
from polymodal.encoders.image import ImageEncoderConfig
from polymodal.encoders.regions import GridRegionsConfig, RegionsConfig
from polymodal.encoders.vit import VitConfig
from polymodal.fusion.early import EarlyConfig
from polymodal.layers.mlp import Activation
from polymodal.models.heads import HeadConfig, HeadsConfig
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import MaskedTextHeadConfig, MatchingHeadConfig, PretrainingHeadConfig


def visualbert(
    *,
    vocab_size: int = 30522,
    max_length: int = 512,
    segments: int = 2,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    mlp_width: int | None = None,
    activation: Activation = "gelu",
    eps: float = 1e-12,
    dropout: float = 0.1,
    feature_width: int = 2048,
    backbone: ImageEncoderConfig | None = None,
    pool: Literal["pooler", "last_word"] = "pooler",
    targets: Mapping[str, HeadConfig] | None = None,
    pretraining: Mapping[str, PretrainingHeadConfig] | None = None,
) -> MultimodalConfig:
    """VisualBERT's config; the defaults are the published size. Inputs: text, image.

    Args:
        feature_width: of the detector's regions; their boxes are not read.
        backbone: None: `image` is `Regions`. An image encoder: `image` is pixels and its grid cells are the regions.
        pool: last_word: as the published model for VQA, whose head reads the word before [SEP].
        targets: heads on the joint state.
        pretraining: heads that only objectives run; None: masked text and matching.
    """
    # Nothing is normalized or dropped out before text and regions are side by side.
    tables = {"width": width, "heads": heads, "eps": eps, "dropout": 0.0, "layers": 0}
    text = {**tables, "vocab_size": vocab_size, "max_length": max_length, "segments": segments, "embedding_norm": False}
    regions = {**tables, "style": "typed", "positions": max_length, "segments": segments}
    image = (
        RegionsConfig.parse({**regions, "feature_width": feature_width}, "visualbert")
        if backbone is None
        else GridRegionsConfig.parse({**regions, "backbone": backbone}, "visualbert")
    )
    joint = {
        "width": width,
        "layers": layers,
        "heads": heads,
        "mlp_width": mlp_width,
        "norm": "post",
        "activation": activation,
        "eps": eps,
        "dropout": dropout,
        "types": False,  # they stand in the encoders' tables
        "input_norm": True,
        "pool": pool,
    }
    if pretraining is None:
        pretraining = {"masked_text": MaskedTextHeadConfig(eps=eps), "matching": MatchingHeadConfig()}
    return MultimodalConfig(
        encoders={"text": BertConfig.parse(text, "visualbert"), "image": image},
        fusion=EarlyConfig.parse(joint, "visualbert"),
        heads=HeadsConfig(targets=dict(targets or {})),
        pretraining=dict(pretraining),
    )


def visualbert_tiny(vocab_size: int = 8192, image_size: int = 64) -> MultimodalConfig:
    """For two processor cores, from pixels; trained without dropout."""
    backbone = VitConfig(
        image_size=image_size,
        patch_size=16,
        width=128,
        layers=2,
        heads=4,
        activation="gelu",
        class_token=False,
        pool="mean",
    )
    return visualbert(
        vocab_size=vocab_size, max_length=32, width=128, layers=4, heads=4, dropout=0.0, backbone=backbone
    )
