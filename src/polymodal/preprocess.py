"""What is done to pictures, texts and sounds before a model sees them; it travels inside every artifact.

The settings live here, below data and engine, because released checkpoints bring them along; `data/decode` and
`data/sound` obey them.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from polymodal.config import Config

if TYPE_CHECKING:
    from torch import Tensor

Decoding = Literal["exact", "fast"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImagePreprocess(Config):
    """Picture file -> (3, size, size) uint8 -> normalized float."""

    size: int = Field(224, ge=1)  # pixels of both sides
    fit: Literal["crop", "squash"] = "crop"  # crop: shorter side to size, centre crop; squash: both sides to size
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    # exact: as Pillow and transformers do it. fast: large JPEGs at a fraction of their size, and resized by vector
    # instructions; on the mean a third of a grey level away where they are decoded smaller, else next to nothing
    # (`data/fast`). Settings that say nothing are older than the choice, or of somebody else's weights.
    decoding: Decoding = "exact"
    background: tuple[int, int, int] = (255, 255, 255)  # RGB that shows through transparent pixels
    mean: tuple[float, float, float] = CLIP_MEAN  # of pixels in 0 to 1
    std: tuple[float, float, float] = CLIP_STD

    def normalize(self, pixels: "Tensor") -> "Tensor":
        """(B, 3, H, W) uint8 -> float32, (x / 255 - mean) / std by channel."""
        import torch  # here, for the settings are read where there is no torch too

        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1) * 255
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1) * 255
        return (pixels.float() - mean) / std

    def with_decoding(self, decoding: Decoding | None) -> "ImagePreprocess":
        """The same but for `decoding`; None leaves that too."""
        return self if decoding is None else self.model_copy(update={"decoding": decoding})


class TextPreprocess(Config):
    max_length: int = Field(77, ge=2)  # tokens, the special ones included; longer texts are cut, their last token kept
    pad_to_max: bool = False  # SigLIP was trained on fully padded texts and reads its answer at the last place


class AudioPreprocess(Config):
    """Sound file -> mono samples at `rate` -> steps that an encoder reads.

    log_mel: Whisper's frames, a hundred a second. samples: the samples themselves, of mean 0 and variance 1, as
    wav2vec 2.0 and its kin read them.
    """

    rate: int = Field(16000, ge=4000, le=192000)  # samples a second
    seconds: float = Field(30.0, gt=0, le=3600)  # longer sounds are cut
    features: Literal["log_mel", "samples"] = "log_mel"
    pad_to_max: bool = False  # Whisper's weights were trained on sounds padded to 30 s
    mels: int = Field(80, ge=1)  # bands from 0 Hz to rate / 2

    @field_validator("rate")
    @classmethod
    def _divides(cls, rate: int) -> int:
        if rate % 400:
            raise ValueError("must be a multiple of 400, so that 10 ms are whole samples and 25 ms an even number")
        return rate

    @model_validator(mode="after")
    def _fits(self) -> "AudioPreprocess":
        if self.pad_to_max and self.features == "samples":
            raise ValueError("pad_to_max is for features log_mel; readers of samples know padding by its mask")
        return self

    @property
    def channels(self) -> int:
        """Numbers that a step has."""
        return self.mels if self.features == "log_mel" else 1

    @property
    def window(self) -> int:
        """Samples that a frame looks at: 25 ms."""
        return self.rate // 40

    @property
    def hop(self) -> int:
        """Samples from one frame to the next: 10 ms."""
        return self.rate // 100

    @property
    def max_samples(self) -> int:
        return round(self.seconds * self.rate)


class Preprocess(Config):
    image: ImagePreprocess = ImagePreprocess()
    text: TextPreprocess = TextPreprocess()
    audio: AudioPreprocess = AudioPreprocess()

    def with_decoding(self, decoding: Decoding | None) -> "Preprocess":
        """The same but for the decoding of pictures; None leaves that too."""
        return self.model_copy(update={"image": self.image.with_decoding(decoding)})
