"""One file a tower: a config and the module that it builds.

`forward(input) -> Tokens`, where `input` is what the config's `reads` says: image: pixels float (B, 3, H, W); text:
`Text`; record: `Record`; series and audio: `Series`; regions: `Regions`. Every tower has `config`, whose `width` is the
width of what it pools, and `layer_groups()`, its parameters from input to output.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from polymodal.encoders.bert import BertConfig
from polymodal.encoders.clip_resnet import ClipResnetConfig
from polymodal.encoders.efficientnet_lite import EfficientNetLite, EfficientNetLiteConfig
from polymodal.encoders.image import ImageEncoderConfig
from polymodal.encoders.lstm import LstmConfig
from polymodal.encoders.pretrained import TransformersConfig
from polymodal.encoders.record import RecordConfig, RecordMlpConfig
from polymodal.encoders.regions import GridRegionsConfig, RegionsConfig
from polymodal.encoders.resnet import ResnetConfig
from polymodal.encoders.series import SeriesConfig
from polymodal.encoders.text_transformer import TextTransformerConfig
from polymodal.encoders.vit import VitConfig
from polymodal.encoders.whisper import WhisperConfig
from polymodal.types import Text

TextEncoderConfig = Annotated[TextTransformerConfig | BertConfig | LstmConfig, Field(discriminator="kind")]
EncoderConfig = Annotated[
    VitConfig
    | ClipResnetConfig
    | ResnetConfig
    | EfficientNetLiteConfig
    | TextTransformerConfig
    | BertConfig
    | LstmConfig
    | WhisperConfig
    | RecordConfig
    | RecordMlpConfig
    | SeriesConfig
    | RegionsConfig
    | GridRegionsConfig
    | TransformersConfig,
    Field(discriminator="kind"),
]


def for_use(tower: nn.Module) -> nn.Module:
    """The tower, or a faster one with the same answers that can no longer learn."""
    return tower.folded() if isinstance(tower, EfficientNetLite) else tower


def pooled(tower: nn.Module, given: Tensor | Text) -> Tensor:
    """(B, D): `tower(given).pooled` in eval mode, by a shorter way where the tower has one."""
    shorter = getattr(tower, "pooled", None)
    said: Tensor = tower(given).pooled if shorter is None else shorter(given)
    return said


__all__ = [
    "BertConfig",
    "ClipResnetConfig",
    "EfficientNetLiteConfig",
    "EncoderConfig",
    "GridRegionsConfig",
    "ImageEncoderConfig",
    "LstmConfig",
    "RecordConfig",
    "RecordMlpConfig",
    "RegionsConfig",
    "ResnetConfig",
    "SeriesConfig",
    "TextEncoderConfig",
    "TextTransformerConfig",
    "TransformersConfig",
    "VitConfig",
    "WhisperConfig",
    "for_use",
    "pooled",
]
