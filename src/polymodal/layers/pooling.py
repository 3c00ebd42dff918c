"""From a sequence to one vector.

Shapes: B rows; L tokens; D width.
"""

import torch
from torch import Tensor, nn

from polymodal.layers.attention import CrossAttention, key_mask
from polymodal.layers.mlp import Activation, Mlp


def masked_mean(sequence: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens, (B, D); zero for a row that has none."""
    weights = mask.to(sequence.dtype)[:, :, None]
    return (sequence * weights).sum(1) / weights.sum(1).clamp(min=1)


def last_real(sequence: Tensor, mask: Tensor) -> Tensor:
    """The vector at the last True of each row's mask, (B, D); the first for a row that has none."""
    return at(sequence, last_place(mask))


def last_place(mask: Tensor) -> Tensor:
    """The place (B,) of the last True of each row of a (B, L) mask; 0 for a row that has none."""
    return torch.where(mask, torch.arange(mask.shape[1], device=mask.device), 0).amax(1)


def at(sequence: Tensor, places: Tensor) -> Tensor:
    """The vector at one place (B,) of each row, (B, D) of (B, L, D)."""
    return sequence[torch.arange(sequence.shape[0], device=sequence.device), places]


class AttentionPool(nn.Module):
    """A learned query looks at all tokens, then a residual MLP: the head of SigLIP's image tower ("MAP").

    Source: Zhai et al. 2022, arXiv:2106.04560, section 3; transformers `SiglipMultiheadAttentionPoolingHead`.
    """

    def __init__(self, width: int, heads: int, mlp_width: int, act: Activation, eps: float) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.attention = CrossAttention(width, heads)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp_width, act)
        nn.init.xavier_uniform_(self.probe)

    def forward(self, sequence: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, D) of (B, L, D); mask (B, L) is True at real tokens."""
        keys = None if mask is None else key_mask(mask)
        x: Tensor = self.attention(self.probe.expand(sequence.shape[0], -1, -1), sequence, keys)
        x = x + self.mlp(self.norm(x))
        return x[:, 0]
