"""Multi-head attention through torch's `scaled_dot_product_attention`.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2: softmax(Q Kᵀ / √d + M) V.
Shapes: B rows; L tokens; S tokens that are looked at; D width; H heads.
"""

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def key_mask(mask: Tensor) -> Tensor:
    """(B, 1, 1, S) bool for `Attention`, of a (B, S) mask that is True at real tokens.

    A row with nothing in it looks at everything: softmax over nothing is not a number, and whatever such a row gives is
    masked again where it is pooled.
    """
    return (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]


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

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """(B, L, D) of (B, L, D).

        Args:
            mask: as `key_mask` gives it; None when every token is real.
            causal: a token sees itself and those before it.
        """
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, L, D / H)
        mixed = scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, dropout_p=self.dropout if self.training else 0.0
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class CrossAttention(nn.Module):
    """Queries of one sequence look at another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        for linear in (self.q, self.kv):
            nn.init.xavier_uniform_(linear.weight)
        for linear in (self.q, self.kv, self.out):
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) of queries (B, L, D) and `seen` (B, S, D); mask as `key_mask` gives it."""
        query = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.kv(seen).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out
