"""Text that reads another input: layers of self-attention, attention to the other, and an MLP, as ALBEF's upper half.

Source: Li et al. 2021, arXiv:2107.07651, section 3.1; salesforce/ALBEF models/xbert.py `BertLayer` with its
`crossattention`, `mode="fusion"`. Post-norm, as BERT.
Shapes: B rows; L tokens of the text, S of the other input; D, E their widths; H heads.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.errors import ConfigError
from polymodal.fusion.coattention import check_two, check_widths
from polymodal.fusion.early import initialize_as_bert
from polymodal.fusion.project import known_input
from polymodal.layers.attention import Attention, CrossAttention, key_mask
from polymodal.layers.mlp import Activation, Mlp
from polymodal.types import Fused, Tokens


class FuseTextConfig(Config):
    kind: Literal["fuse_text"] = "fuse_text"
    text: str = "text"  # the input that reads; the other one is read and stays as it is
    layers: int = Field(6, ge=1, le=1000)
    heads: int = Field(12, ge=1)
    mlp_width: int | None = None  # None: 4 x the text's width
    activation: Activation = "gelu"
    eps: float = 1e-12
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self, widths: Mapping[str, int]) -> "FuseText":
        return FuseText(self, widths)


class FuseText(nn.Module):
    """The joint state is the text's first token behind the last layer."""

    def __init__(self, config: FuseTextConfig, widths: Mapping[str, int]) -> None:
        """Raises ConfigError: there are not two inputs, `text` is none of them, or its width no multiple of heads."""
        super().__init__()
        check_two(config.kind, widths)
        known_input(config.kind, "text", config.text, widths)
        self.config = config
        self.width, self.widths = widths[config.text], dict(widths)
        if self.width % config.heads:
            raise ConfigError(
                f'fusion "fuse_text": the width of "{config.text}" must be a multiple of heads ({config.heads}), '
                f"got {self.width}"
            )
        (self.other,) = (name for name in widths if name != config.text)
        self.blocks = nn.ModuleList(ReadingBlock(config, self.width, widths[self.other]) for _ in range(config.layers))
        initialize_as_bert(self)

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """The text's states (B, L, D) after it has read the other input, whose tokens pass through.

        Args:
            present: not read: a learned token stands for an absent input.
            maps: also give, for inputs text and image and layer i, `text->image.i` (B, H, L, S): how much each token of
                the text looks at each of the other input.
        """
        check_widths(tokens, self.widths)
        text, other = tokens[self.config.text], tokens[self.other]
        x, own, theirs = text.sequence, key_mask(text.mask), key_mask(other.mask)
        looks: dict[str, Tensor] = {}
        for number, block in enumerate(self.blocks):
            assert isinstance(block, ReadingBlock)
            if maps:
                looks[f"{self.config.text}->{self.other}.{number}"] = block.weights(x, own, other.sequence, theirs)
            x = block(x, own, other.sequence, theirs)
        return Fused(x[:, 0], {**tokens, self.config.text: Tokens(x, text.mask, x[:, 0])}, looks)


class ReadingBlock(nn.Module):
    def __init__(self, config: FuseTextConfig, width: int, other_width: int) -> None:
        super().__init__()
        self.attention = Attention(width, config.heads, config.dropout)
        self.norm1 = nn.LayerNorm(width, eps=config.eps)
        self.cross = CrossAttention(width, config.heads, config.dropout, other_width)
        self.norm2 = nn.LayerNorm(width, eps=config.eps)
        self.mlp = Mlp(width, config.mlp_width or 4 * width, config.activation)
        self.norm3 = nn.LayerNorm(width, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, own: Tensor, other: Tensor, theirs: Tensor) -> Tensor:
        """(B, L, D) of the text's states and the other input (B, S, E); `own` and `theirs` as `key_mask` gives them."""
        x = self._read_self(x, own)
        x = self.norm2(x + self.dropout(self.cross(x, other, theirs)))
        out: Tensor = self.norm3(x + self.dropout(self.mlp(x)))
        return out

    def weights(self, x: Tensor, own: Tensor, other: Tensor, theirs: Tensor) -> Tensor:
        """How much the text looks at the other input when `x` goes in, (B, H, L, S); rows sum to 1."""
        return self.cross.weights(self._read_self(x, own), other, theirs)

    def _read_self(self, x: Tensor, own: Tensor) -> Tensor:
        out: Tensor = self.norm1(x + self.dropout(self.attention(x, own)))
        return out
