"""ALBEF-like: picture and text are aligned by contrast first, then the text reads the picture.

Source: Li et al. 2021, arXiv:2107.07651; sizes of salesforce/ALBEF configs/Pretrain.yaml and models/model_pretrain.py.
Its momentum teacher is no part of the model: that is a matter of the objectives.
"""

from polymodal.encoders.bert import BertConfig
from polymodal.encoders.vit import VitConfig
from polymodal.fusion.fuse_text import FuseTextConfig
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import ContrastiveHeadConfig, MaskedTextHeadConfig, MatchingHeadConfig


def albef(image: VitConfig, text: BertConfig, *, layers: int, width: int = 256) -> MultimodalConfig:
    """ALBEF of any size.

    Args:
        text: the text alone; what follows has its heads, MLP width and dropout.
        layers: in which the text reads the picture.
        width: of the space in which the two are aligned.
    """
    return MultimodalConfig(
        encoders={"image": image, "text": text},
        fusion=FuseTextConfig(
            text="text",
            layers=layers,
            heads=text.heads,
            mlp_width=text.mlp_width,
            activation=text.activation,
            eps=text.eps,
            dropout=text.dropout,
        ),
        pretraining={
            "contrastive": ContrastiveHeadConfig(first="image", second="text", width=width),
            "masked_text": MaskedTextHeadConfig(input="text", eps=text.eps),
            "matching": MatchingHeadConfig(),
        },
    )


def albef_base(vocab_size: int = 30522, image_size: int = 256) -> MultimodalConfig:
    """The published sizes: ViT-B/16, and BERT-base whose upper six layers read the picture."""
    image = VitConfig(
        image_size=image_size, patch_size=16, activation="gelu", eps=1e-6, patch_bias=True, pre_norm=False
    )
    return albef(image, BertConfig(vocab_size=vocab_size, layers=6, dropout=0.1), layers=6)


def albef_tiny(vocab_size: int = 8192, image_size: int = 64) -> MultimodalConfig:
    """Ours, for two processor cores."""
    image = VitConfig(image_size=image_size, patch_size=8, width=128, layers=4, heads=4, activation="gelu")
    text = BertConfig(vocab_size=vocab_size, max_length=32, width=128, layers=2, heads=4, dropout=0.1)
    return albef(image, text, layers=2, width=64)
