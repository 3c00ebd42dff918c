"""Multi-head attention through torch's `scaled_dot_product_attention`.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2: softmax(Q Kᵀ / √d + M) V.
Shapes: B rows; L tokens; S tokens that are looked at; D width; H heads.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from polymodal.layers.packing import Layout, key_mask

__all__ = ["Attention", "CrossAttention", "attention_weights", "key_mask"]


def attention_weights(query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q Kᵀ / √d), (B, H, L, S), of (B, H, L, d) and (B, H, S, d): what the fused kernel does not give back."""
    scores: Tensor = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1)


class Attention(nn.Module):
    """Self-attention, its three input projections in one matrix (rows: queries, keys, values)."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.qkv.weight)  # these three lines: the start of torch's nn.MultiheadAttention
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, mask: Tensor | Layout | None = None, causal: bool = False) -> Tensor:
        """(B, L, D) of (B, L, D), or (N, D) of (N, D) where a layout says that tokens are packed.

        Args:
            mask: as `key_mask` gives it; None when every token is real.
            causal: a token sees itself and those before it.
        """
        layout = mask if isinstance(mask, Layout) else Layout(mask)
        query, key, value = self._split(layout.pad(self.qkv(x)))
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(
            query, key, value, attn_mask=layout.keys, is_causal=causal, dropout_p=dropout
        )
        out: Tensor = self.out(layout.pack(mixed.transpose(1, 2).flatten(2)))
        return out

    def at(self, x: Tensor, places: Tensor, keys: Tensor | None = None, causal: bool = False) -> Tensor:
        """(B, D): `forward` at one place (B,) of each row, whose token alone looks at the others."""
        query, key, value = self._split(self.qkv(x))
        if causal:
            keys = (torch.arange(x.shape[1], device=x.device) <= places[:, None])[:, None, None, :]
        asked = query[torch.arange(x.shape[0], device=x.device), :, places][:, :, None]  # (B, H, 1, d)
        mixed = scaled_dot_product_attention(asked, key, value, attn_mask=keys)
        out: Tensor = self.out(mixed.flatten(1))
        return out

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Who looks at whom, (B, H, L, L); each row of the last dimension sums to 1."""
        query, key, _ = self._split(self.qkv(x))
        return attention_weights(query, key, mask)

    def _split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, L, D / H)
        return query, key, value


class CrossAttention(nn.Module):
    """Queries of one sequence look at another."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0, seen_width: int | None = None) -> None:
        """Args: seen_width: of the other sequence; None: the same."""
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(seen_width or width, 2 * width)
        self.out = nn.Linear(width, width)
        for linear in (self.q, self.kv):
            nn.init.xavier_uniform_(linear.weight)
        for linear in (self.q, self.kv, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) of queries (B, L, D) and `seen` (B, S, D or `seen_width`); mask as `key_mask` gives it."""
        query, key, value = self._split(x, seen)
        mixed = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def weights(self, x: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        """Who looks at what, (B, H, L, S); each row of the last dimension sums to 1."""
        query, key, _ = self._split(x, seen)
        return attention_weights(query, key, mask)

    def _split(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, D / H)
        key, value = self.kv(seen).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value
