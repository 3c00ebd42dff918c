"""The text tower of CLIP (causal, read at the end token) and of SigLIP (sees both ways, read at the last place).

Sources: Radford et al. 2021, arXiv:2103.00020, openai/CLIP clip/model.py; Zhai et al. 2023, arXiv:2303.15343, and
transformers `SiglipTextModel`.
Shapes: B texts; L tokens; D width.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.errors import ShapeError
from polymodal.layers.mlp import Activation
from polymodal.layers.pooling import at, last_place, masked_mean
from polymodal.layers.transformer import Transformer, initialize_as_clip
from polymodal.types import Text, Tokens


class TextTransformerConfig(Config):
    """The defaults are CLIP's ViT-B/32."""

    kind: Literal["text_transformer"] = "text_transformer"
    reads: ClassVar[Literal["text"]] = "text"
    vocab_size: int = Field(49408, ge=1)
    max_length: int = Field(77, ge=1)  # tokens for which there are positions
    width: int = Field(512, ge=1, le=2**16)
    layers: int = Field(12, ge=1, le=1000)
    heads: int = Field(8, ge=1)
    mlp_width: int | None = None  # None: 4 x width
    activation: Activation = "quick_gelu"
    eps: float = 1e-5
    causal: bool = True
    # eos: at the end token, found by its id; last: at the last real token; mean: of all real tokens
    pool: Literal["eos", "last", "mean"] = "last"
    eos_token_id: int | None = None  # for pool eos. None: the largest id of the text, as OpenAI's code reads it
    head: bool = False  # a linear layer on the pooled vector (SigLIP)
    dropout: float = Field(0.0, ge=0, lt=1)

    def model_post_init(self, context: object) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")

    def build(self) -> "TextTransformer":
        return TextTransformer(self)


class TextTransformer(nn.Module):
    def __init__(self, config: TextTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Parameter(torch.empty(config.max_length, width))
        self.blocks = Transformer(
            config.layers,
            width,
            config.heads,
            config.mlp_width or 4 * width,
            config.activation,
            config.eps,
            dropout=config.dropout,
            causal=config.causal,
        )
        self.post_norm = nn.LayerNorm(width, eps=config.eps)
        self.head = nn.Linear(width, width) if config.head else nn.Identity()
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        initialize_as_clip(self.blocks)

    def forward(self, text: Text) -> Tokens:
        """Tokens of (B, L) ids, padded on the right.

        Raises:
            ShapeError: the text is longer than the positions that were learned.
        """
        x = self.post_norm(self.blocks(self._embedded(text), text.mask))
        mean = self.config.pool == "mean"
        return Tokens(x, text.mask, self.head(masked_mean(x, text.mask) if mean else at(x, self._place(text))))

    def pooled(self, text: Text) -> Tensor:
        """(B, D): `forward(text).pooled` in eval mode, without what only the other tokens need."""
        if self.config.pool == "mean":
            said: Tokens = self(text)
            return said.pooled
        out: Tensor = self.head(self.post_norm(self.blocks.at(self._embedded(text), self._place(text), text.mask)))
        return out

    def _embedded(self, text: Text) -> Tensor:
        length = check_length(text, self.config.max_length)
        x: Tensor = self.embedding(text.ids)
        return x + self.positions[:length].to(x.dtype)

    def _place(self, text: Text) -> Tensor:
        """(B,), of the token that is read."""
        if self.config.pool == "last":
            return last_place(text.mask)
        if self.config.eos_token_id is None:
            return text.ids.argmax(1)
        # A text without its end token is read at its last real one; the source's code would read the first place, which
        # under a causal mask says nothing about the text.
        is_end = (text.ids == self.config.eos_token_id) & text.mask
        upto_end = is_end.cumsum(1) - is_end.int() == 0
        return last_place(text.mask & upto_end)

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: embeddings, each block, what comes after."""
        first = [*self.embedding.parameters(), self.positions]
        last = [*self.post_norm.parameters(), *self.head.parameters()]
        return [first, *(list(block.parameters()) for block in self.blocks), last]


def check_length(text: Text, max_length: int) -> int:
    """The batch's length in tokens.

    Raises:
        ShapeError: it is longer than `max_length`.
    """
    length = text.ids.shape[1]
    if length > max_length:
        raise ShapeError(
            f"text encoder: at most {max_length} tokens have positions, got {length}; "
            f"set preprocess.text.max_length to {max_length} or less"
        )
    return length
