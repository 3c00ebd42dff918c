"""Transformer blocks and the stack of them that every tower here is made of.

Sources: pre-norm as in CLIP and ViT, x + f(norm(x)); post-norm as in BERT, norm(x + f(x)).
Shapes: B rows; L tokens; D width.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from polymodal.layers.attention import Attention
from polymodal.layers.mlp import Activation, Mlp
from polymodal.layers.packing import Layout, key_mask
from polymodal.layers.pooling import at


class Block(nn.Module):
    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        act: Activation,
        eps: float,
        norm: Literal["pre", "post"] = "pre",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.post = norm == "post"
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp_width, act)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | Layout | None, causal: bool) -> Tensor:
        if self.post:
            x = self.norm1(x + self.dropout(self.attention(x, mask, causal)))
            x = self.norm2(x + self.dropout(self.mlp(x)))
        else:
            x = x + self.dropout(self.attention(self.norm1(x), mask, causal))
            x = x + self.dropout(self.mlp(self.norm2(x)))
        return x

    def at(self, x: Tensor, places: Tensor, keys: Tensor | None, causal: bool) -> Tensor:
        """(B, D): `forward` without dropout at one place (B,) of each row; no other token passes the MLP."""
        own: Tensor = at(x, places)
        if self.post:
            own = self.norm1(own + self.attention.at(x, places, keys, causal))
            own = self.norm2(own + self.mlp(own))
        else:
            own = own + self.attention.at(self.norm1(x), places, keys, causal)
            own = own + self.mlp(self.norm2(own))
        return own

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Who looks at whom in this block when `x` goes in, (B, H, L, L)."""
        return self.attention.weights(x if self.post else self.norm1(x), mask)


class Transformer(nn.ModuleList):
    """A stack of equal blocks.

    `checkpoint` (set it on the object) keeps only each block's input for the backward pass and computes the rest again:
    about a third more time for memory that no longer grows with what happens inside a block.
    """

    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        mlp_width: int,
        act: Activation,
        eps: float,
        norm: Literal["pre", "post"] = "pre",
        dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__(Block(width, heads, mlp_width, act, eps, norm, dropout) for _ in range(layers))
        self.causal = causal
        self.checkpoint = False

    def forward(self, x: Tensor, mask: Tensor | Layout | None = None) -> Tensor:
        """(B, L, D) of (B, L, D); in training what padding says is 0 where that saves time.

        Args:
            mask: (B, L), True at real tokens. A causal stack needs none as long as padding stands on the right, where
                no real token looks; it ignores the mask and keeps the fast path. A layout: `x` lies as that says, and
                so does what comes back.
        """
        if mask is None or self.causal or len(self) == 0:
            return self._through(x, None)
        if isinstance(mask, Layout):
            return self._through(x, mask)
        layout = Layout.of(mask, pack=self.training)
        return layout.pad(self._through(layout.pack(x), layout))

    def at(self, x: Tensor, places: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, D): `forward` in eval mode at one place (B,) of each row, for those who pool a single token.

        The last block then works for that token alone: of 12 blocks this saves about 6 % of all products.
        """
        keys = None if mask is None or self.causal else key_mask(mask)
        *before, last = self
        for block in before:
            x = block(x, keys, self.causal)
        assert isinstance(last, Block)
        return last.at(x, places, keys, self.causal)

    def _through(self, x: Tensor, mask: Layout | None) -> Tensor:
        for block in self:
            x = self.run(block, x, mask)
        return x

    def run(self, block: nn.Module, x: Tensor, keys: Tensor | Layout | None) -> Tensor:
        """One block of the stack, for those who do something between two; keys as `key_mask` gives them."""
        if self.checkpoint and torch.is_grad_enabled():
            out: Tensor = recompute(block, x, keys, self.causal, use_reentrant=False)
        else:
            out = block(x, keys, self.causal)
        return out


def initialize_as_clip(stack: Transformer) -> None:
    """Normal weights by width and depth, as the text tower of openai/CLIP, clip/model.py `initialize_parameters`.

    In: width^-½. Back to the residual stream: width^-½ (2 layers)^-½. Widening: (2 width)^-½.
    """
    for module in stack:
        assert isinstance(module, Block)
        width = module.norm1.normalized_shape[0]
        back = width**-0.5 * (2 * len(stack)) ** -0.5
        nn.init.normal_(module.attention.qkv.weight, std=width**-0.5)
        nn.init.normal_(module.attention.out.weight, std=back)
        nn.init.normal_(module.mlp.fc1.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(module.mlp.fc2.weight, std=back)
