"""What is done to pictures and texts before a model sees them; it travels inside every artifact.

The settings live here, below data and engine, because released checkpoints bring them along; `data/decode` obeys them.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from polymodal.config import Config

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImagePreprocess(Config):
    """Picture file -> (3, size, size) uint8 -> normalized float."""

    size: int = Field(224, ge=1)  # pixels of both sides
    fit: Literal["crop", "squash"] = "crop"  # crop: shorter side to size, centre crop; squash: both sides to size
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    background: tuple[int, int, int] = (255, 255, 255)  # RGB that shows through transparent pixels
    mean: tuple[float, float, float] = CLIP_MEAN  # of pixels in 0 to 1
    std: tuple[float, float, float] = CLIP_STD

    def normalize(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> float32, (x / 255 - mean) / std by channel."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1) * 255
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1) * 255
        return (pixels.float() - mean) / std


class TextPreprocess(Config):
    max_length: int = Field(77, ge=2)  # tokens, the special ones included; longer texts are cut, their last token kept
    pad_to_max: bool = False  # SigLIP was trained on fully padded texts and reads its answer at the last place


class Preprocess(Config):
    image: ImagePreprocess = ImagePreprocess()
    text: TextPreprocess = TextPreprocess()


class AudioPreprocess(Config):
    """Sound file -> mono samples at `rate` -> log-mel frames, as Whisper's."""

    rate: int = Field(16000, ge=1)  # samples a second
    seconds: float = Field(30.0, gt=0)  # longer sounds are cut
    pad_to_max: bool = False  # Whisper's weights were trained on sounds padded to 30 s
    mels: int = Field(80, ge=1)
