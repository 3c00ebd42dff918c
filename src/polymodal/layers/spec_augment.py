"""SpecAugment: bands and stretches of a sound's frames are blanked in training.

Source: Park et al. 2019, arXiv:1904.08779, section 2 and table 1. Their time warping is left out: it gains least and
costs most (section 5).
Shapes: B sounds; T frames; M bands; K masks.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.types import Series

SOURCE_BANDS = 80  # of the spectrograms for which the paper gives its widths


class SpecAugmentConfig(Config):
    """The defaults are the paper's LibriSpeech "double" policy; Switchboard mild: 15 bands, 70 frames, share 0.2."""

    band_masks: int = Field(2, ge=0, le=100)
    band_width: int = Field(27, ge=1)  # most bands of a mask, of 80; scaled to the bands that there are
    frame_masks: int = Field(2, ge=0, le=100)
    frame_width: int = Field(100, ge=1)  # most frames of a mask
    frame_share: float = Field(1.0, gt=0, le=1)  # most of a sound's frames that one mask may cover

    def build(self) -> "SpecAugment":
        return SpecAugment(self)


class SpecAugment(nn.Module):
    """Blanks in training, hands through otherwise; draws from torch's global generator."""

    def __init__(self, config: SpecAugmentConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, frames: Series) -> Series:
        """The frames (B, T, M), blanked parts set to the sound's mean.

        All masks of a sound together never cover it: each is at most its share of all but one frame or band. A mask's
        first place is any at which it fits; the paper's half-open range would never blank the last one.
        """
        if not self.training:
            return frames
        values, mask = frames
        config, (rows, steps, bands) = self.config, values.shape
        widest = round(config.band_width * bands / SOURCE_BANDS)
        some = torch.full((rows,), bands, device=values.device)
        hidden = _draw(some, torch.full_like(some, max(widest, 1)), config.band_masks, bands)[:, None, :]
        lengths = mask.sum(1)
        most = (lengths * config.frame_share).long().clamp(max=config.frame_width)
        hidden = hidden | _draw(lengths, most, config.frame_masks, steps)[:, :, None]
        return Series(torch.where(hidden & mask[:, :, None], _mean(frames), values), mask)


def _draw(lengths: Tensor, widest: Tensor, masks: int, size: int) -> Tensor:
    """(B, size) bool, True where one of the masks lies: widths U[0, widest], places U[0, length - width]."""
    if masks == 0:
        return torch.zeros(len(lengths), size, dtype=torch.bool, device=lengths.device)
    widest = torch.minimum(widest, (lengths - 1).clamp(min=0) // masks)[:, None]  # (B, 1)
    chance = torch.rand(2, len(lengths), masks, device=lengths.device)
    width = (chance[0] * (widest + 1)).long()  # (B, K)
    first = (chance[1] * (lengths[:, None] - width + 1)).long()
    places = torch.arange(size, device=lengths.device)
    return ((places >= first[..., None]) & (places < (first + width)[..., None])).any(1)


def _mean(frames: Series) -> Tensor:
    """Mean of all real values of each sound, (B, 1, 1)."""
    real = frames.values.masked_fill(~frames.mask[:, :, None], 0)
    count = frames.mask.sum(1).clamp(min=1) * frames.values.shape[2]
    return real.sum((1, 2))[:, None, None] / count[:, None, None]
