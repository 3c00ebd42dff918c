"""Every image encoder of our own, told apart by `kind`: what an encoder that stands on another one can be built on."""

from typing import Annotated

from pydantic import Field

from polymodal.encoders.clip_resnet import ClipResnetConfig
from polymodal.encoders.efficientnet_lite import EfficientNetLiteConfig
from polymodal.encoders.resnet import ResnetConfig
from polymodal.encoders.vit import VitConfig

OwnImageEncoder = VitConfig | ClipResnetConfig | ResnetConfig | EfficientNetLiteConfig  # isinstance may ask this one
ImageEncoderConfig = Annotated[OwnImageEncoder, Field(discriminator="kind")]
