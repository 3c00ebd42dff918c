"""BERT: the text tower of Chinese-CLIP and of the sentence-transformers.

Source: Devlin et al. 2019, arXiv:1810.04805; transformers `BertModel`.
Shapes: B texts; L tokens; D width.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.encoders.text_transformer import check_length
from polymodal.layers.mlp import Activation
from polymodal.layers.pooling import masked_mean
from polymodal.layers.transformer import Transformer
from polymodal.types import Text, Tokens


class BertConfig(Config):
    """The defaults are BERT-base, uncased."""

    kind: Literal["bert"] = "bert"
    reads: ClassVar[Literal["text"]] = "text"
    vocab_size: int = Field(30522, ge=1)
    max_length: int = Field(512, ge=1)  # tokens for which there are positions
    segments: int = Field(2, ge=1)  # rows of the segment table; a single text is segment 0
    width: int = Field(768, ge=1, le=2**16)
    layers: int = Field(12, ge=0, le=1000)  # 0: the embeddings alone, for an early fusion
    heads: int = Field(12, ge=1)
    mlp_width: int | None = None  # None: 4 x width
    activation: Activation = "gelu"
    eps: float = 1e-12
    embedding_norm: bool = True  # a LayerNorm over the embeddings; False leaves it to an early fusion
    pool: Literal["cls", "mean", "pooler"] = "cls"  # pooler: tanh of a linear layer on the first token
    dropout: float = Field(0.0, ge=0, lt=1)  # BERT itself was trained with 0.1

    def model_post_init(self, context: object) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")

    def build(self) -> "Bert":
        return Bert(self)


class Bert(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Parameter(torch.empty(config.max_length, width))
        self.segments = nn.Parameter(torch.empty(config.segments, width))
        self.norm = nn.LayerNorm(width, eps=config.eps) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = Transformer(
            config.layers,
            width,
            config.heads,
            config.mlp_width or 4 * width,
            config.activation,
            config.eps,
            norm="post",
            dropout=config.dropout,
        )
        pooled = config.pool == "pooler"
        self.pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh()) if pooled else nn.Identity()
        self._initialize()

    def _initialize(self) -> None:
        # arXiv:1810.04805's code, modeling.py `create_initializer(0.02)`; biases zero.
        for parameter in (self.embedding.weight, self.positions, self.segments):
            nn.init.normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, text: Text) -> Tokens:
        """Tokens of (B, L) ids.

        Raises:
            ShapeError: the text is longer than the positions that were learned.
        """
        x = self.blocks(self.dropout(self._embedded(text)), text.mask)
        return Tokens(x, text.mask, self._pool(x, text.mask))

    def pooled(self, text: Text) -> Tensor:
        """(B, D): `forward(text).pooled` in eval mode, without what only the other tokens need."""
        if self.config.pool == "mean" or not len(self.blocks):
            said: Tokens = self(text)
            return said.pooled
        first = text.ids.new_zeros(text.ids.shape[0])
        out: Tensor = self.pooler(self.blocks.at(self._embedded(text), first, text.mask))
        return out

    def _embedded(self, text: Text) -> Tensor:
        length = check_length(text, self.config.max_length)
        x = self.embedding(text.ids)
        out: Tensor = self.norm(x + (self.positions[:length] + self.segments[0]).to(x.dtype))
        return out

    def _pool(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.config.pool == "mean":
            return masked_mean(x, mask)
        pooled: Tensor = self.pooler(x[:, 0])
        return pooled

    def layer_groups(self) -> list[list[nn.Parameter]]:
        """Parameters from input to output: embeddings, each block, what comes after."""
        first = [*self.embedding.parameters(), self.positions, self.segments, *self.norm.parameters()]
        return [first, *(list(block.parameters()) for block in self.blocks), list(self.pooler.parameters())]
