"""Real tokens alone: what works token by token need not work on padding.

In training a batch of texts is padded to its longest, and of captions some 40 % of the places are padding. Linear
layers, norms and activations then run on the real tokens of all rows one after another, and only attention, which is
the smaller part of short sequences, sees rows.
Shapes: B rows; L tokens; N real tokens of all rows; D width.
"""

from typing import NamedTuple

from torch import Tensor

WORTH = 0.9  # share of real tokens above which moving them costs about as much as it saves


def key_mask(mask: Tensor) -> Tensor:
    """(B, 1, 1, S) bool for `Attention`, of a (B, S) mask that is True at real tokens.

    A row with nothing in it looks at everything: softmax over nothing is not a number, and whatever such a row gives is
    masked again where it is pooled.
    """
    return (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]


class Layout(NamedTuple):
    """How the tokens of a batch lie: (B, L, D), or packed as (N, D)."""

    keys: Tensor | None  # as `key_mask` gives it; None when every token is real
    places: Tensor | None = None  # (N,) int64, of the real tokens among the B · L; None: not packed
    shape: tuple[int, int] = (0, 0)  # B and L, of packed ones

    @classmethod
    def of(cls, mask: Tensor, *, pack: bool) -> "Layout":
        """Of a (B, L) mask that is True at real tokens; packed only if asked for, and where it is worth it."""
        if not pack:
            return cls(key_mask(mask))
        places = mask.flatten().nonzero().flatten()
        if len(places) == mask.numel():
            return cls(None)
        if not 0 < len(places) < WORTH * mask.numel():
            return cls(key_mask(mask))
        return cls(key_mask(mask), places, (mask.shape[0], mask.shape[1]))

    def pack(self, x: Tensor) -> Tensor:
        """(N, D) of (B, L, D); the same where nothing is packed."""
        return x if self.places is None else x.flatten(0, 1).index_select(0, self.places)

    def pad(self, x: Tensor) -> Tensor:
        """(B, L, D) of (N, D), 0 in padding; the same where nothing is packed."""
        if self.places is None:
            return x
        rows, length = self.shape
        # On CPU index_add is three times as fast as index_copy and x[places] = ..., and does the same to zeros.
        padded = x.new_zeros(rows * length, x.shape[1]).index_add_(0, self.places, x)
        return padded.view(rows, length, -1)
