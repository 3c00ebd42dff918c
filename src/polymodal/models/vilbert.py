"""ViLBERT: a text and the regions of a picture, two streams that ask each other at every connection.

Source: Lu et al. 2019, arXiv:1908.02265; sizes of jiasenlu/vilbert_beta config/bert_base_6layer_6conect.json.
"""

from typing import Literal

from polymodal.encoders.bert import BertConfig
from polymodal.encoders.regions import GridRegionsConfig, RegionsConfig
from polymodal.encoders.vit import VitConfig
from polymodal.fusion.coattention import CoattentionConfig, StreamConfig
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import (
    MaskedImageHeadConfig,
    MaskedRegionsHeadConfig,
    MaskedTextHeadConfig,
    MatchingHeadConfig,
    PretrainingHeadConfig,
)


def vilbert(
    text: BertConfig,
    image: RegionsConfig | GridRegionsConfig,
    *,
    text_layers: tuple[int, ...],
    image_layers: tuple[int, ...],
    width: int,
    heads: int,
    join: Literal["product", "sum"] = "product",
    regions: MaskedRegionsHeadConfig | MaskedImageHeadConfig | None = None,
) -> MultimodalConfig:
    """ViLBERT of any size.

    Args:
        text: the text stream up to the first connection; what follows has its heads, MLP width and dropout.
        image: the same of the stream of regions.
        text_layers: layers of the text stream behind each connection.
        image_layers: the same of the stream of regions.
        width: of the attention between the streams, and of the joint state.
        heads: of the connections.
        join: how the joint state is made of the two streams' poolers.
        regions: what pre-training finds again of a hidden region: the detector's classes, its features, or the pixels
            of a cell. None: nothing.
    """
    pretraining: dict[str, PretrainingHeadConfig] = {
        "masked_text": MaskedTextHeadConfig(input="text", eps=text.eps),
        "matching": MatchingHeadConfig(),
    }
    if regions is not None:
        pretraining[regions.kind] = regions
    fusion = CoattentionConfig(
        width=width,
        heads=heads,
        first=StreamConfig(layers=text_layers, heads=text.heads, mlp_width=text.mlp_width, activation=text.activation),
        second=StreamConfig(
            layers=image_layers, heads=image.heads, mlp_width=image.mlp_width, activation=image.activation
        ),
        join=join,
        eps=text.eps,
        dropout=text.dropout,
    )
    return MultimodalConfig(encoders={"text": text, "image": image}, fusion=fusion, pretraining=pretraining)


def vilbert_base(vocab_size: int = 30522, feature_width: int = 2048, classes: int = 1601) -> MultimodalConfig:
    """The published model: BERT-base, six connections under its upper half; 250,044,029 weights with these sizes.

    Args:
        feature_width: of a region's features; 2048 in the detector of the source.
        classes: of the detector, background included.
    """
    return vilbert(
        BertConfig(vocab_size=vocab_size, layers=6, mlp_width=3072, dropout=0.1),
        RegionsConfig(
            feature_width=feature_width,
            width=1024,
            global_region=True,
            heads=8,
            mlp_width=1024,  # not four times the width, which is what the text has
            pool="first",
            dropout=0.1,
        ),
        text_layers=(1,) * 6,
        image_layers=(1,) * 6,
        width=1024,
        heads=8,
        regions=MaskedRegionsHeadConfig(input="image", outputs={"classes": classes}),
    )


def vilbert_tiny(vocab_size: int = 8192, image_size: int = 64) -> MultimodalConfig:
    """Ours, for two processor cores: from pixels, without a detector; a region is a cell of a small ViT's grid."""
    backbone = VitConfig(
        image_size=image_size,
        patch_size=8,
        width=128,
        layers=2,
        heads=4,
        mlp_width=256,
        activation="gelu",
        class_token=False,
        pool="mean",
    )
    text = BertConfig(vocab_size=vocab_size, max_length=32, width=128, layers=2, heads=4, mlp_width=256, dropout=0.1)
    image = GridRegionsConfig(
        backbone=backbone, width=128, global_region=True, heads=4, mlp_width=256, pool="first", dropout=0.1
    )
    return vilbert(
        text,
        image,
        text_layers=(1, 1),
        image_layers=(1, 1),
        width=128,
        heads=4,
        regions=MaskedImageHeadConfig(input="image", cell=backbone.patch_size),
    )
