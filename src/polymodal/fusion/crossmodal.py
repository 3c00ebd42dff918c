"""Cross-modality layers: two inputs look at each other, then each at itself.

Source: Tan & Bansal 2019, arXiv:1908.07490 (LXMERT), section 2.2; airsplay/lxmert, src/lxrt/modeling.py `LXRTXLayer`:
one cross-attention module serves both directions, and both read the states from before the layer.
Shapes: B rows; L, S tokens of the first and the second input; D width; H heads.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from polymodal.config import Config
from polymodal.errors import ConfigError
from polymodal.fusion.early import fit_widths, initialize_as_bert, tanh_pooler
from polymodal.layers.attention import CrossAttention, key_mask
from polymodal.layers.mlp import Activation
from polymodal.layers.named import module_name
from polymodal.layers.pooling import masked_mean
from polymodal.layers.transformer import Transformer
from polymodal.types import Fused, Tokens


class CrossModalConfig(Config):
    kind: Literal["crossmodal"] = "crossmodal"
    width: int = Field(768, ge=1, le=2**16)
    layers: int = Field(5, ge=1, le=1000)
    heads: int = Field(12, ge=1)
    mlp_width: int | None = None  # None: 4 x width
    activation: Activation = "gelu"
    eps: float = 1e-12
    dropout: float = Field(0.0, ge=0, lt=1)  # LXMERT itself was trained with 0.1

    @model_validator(mode="after")
    def _fits(self) -> "CrossModalConfig":
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")
        return self

    def build(self, widths: Mapping[str, int]) -> "CrossModal":
        """Raises:
        ConfigError: there are not two inputs.
        """
        if len(widths) != 2:
            raise ConfigError(
                f"fusion crossmodal joins exactly two inputs, got {len(widths)} ({', '.join(widths)}); "
                'for more, take "early" or "late"'
            )
        return CrossModal(self, widths)


class Exchange(nn.Module):
    """norm(x + attention(x, y)), used for both directions."""

    def __init__(self, config: CrossModalConfig) -> None:
        super().__init__()
        self.attention = CrossAttention(config.width, config.heads, config.dropout)
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        """One direction: (B, L, D) of (B, L, D) and `seen` (B, S, D)."""
        out: Tensor = self.norm(x + self.dropout(self.attention(x, seen, mask)))
        return out


class CrossModal(nn.Module):
    def __init__(self, config: CrossModalConfig, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.widths = dict.fromkeys(widths, config.width)
        self.projections = fit_widths(widths, config.width)
        self.exchanges = nn.ModuleList(Exchange(config) for _ in range(config.layers))
        self.blocks = nn.ModuleDict({module_name(name): _stack(config) for name in widths})
        self.pooler = tanh_pooler(config.width)
        initialize_as_bert(self)

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """The joint state of B rows: BERT's pooler on the first token of the first input.

        Args:
            maps: also give, for inputs text and image and layer i, `text->image.i` (B, H, L, S) and `image->text.i`
                (B, H, S, L): how much each token of the one looks at each of the other.
        """
        (first, second), (left, right) = tokens, (self._stack(name) for name in tokens)
        left_keys, right_keys = (key_mask(given.mask) for given in tokens.values())
        x, y = (self.projections[module_name(name)](given.sequence) for name, given in tokens.items())
        looks: dict[str, Tensor] = {}
        for number, (exchange, left_block, right_block) in enumerate(zip(self.exchanges, left, right, strict=True)):
            assert isinstance(exchange, Exchange)
            if maps:
                looks[f"{first}->{second}.{number}"] = exchange.attention.weights(x, y, right_keys)
                looks[f"{second}->{first}.{number}"] = exchange.attention.weights(y, x, left_keys)
            x, y = exchange(x, y, right_keys), exchange(y, x, left_keys)
            x, y = left.run(left_block, x, left_keys), right.run(right_block, y, right_keys)
        pairs = zip(tokens.items(), (x, y), strict=True)
        joint = {name: Tokens(states, given.mask, masked_mean(states, given.mask)) for (name, given), states in pairs}
        return Fused(self.pooler(x[:, 0]), joint, looks)

    def _stack(self, name: str) -> Transformer:
        stack = self.blocks[module_name(name)]
        assert isinstance(stack, Transformer)
        return stack


def _stack(config: CrossModalConfig) -> Transformer:
    mlp_width = config.mlp_width or 4 * config.width
    return Transformer(
        config.layers,
        config.width,
        config.heads,
        mlp_width,
        config.activation,
        config.eps,
        norm="post",
        dropout=config.dropout,
    )
