"""Co-attention of two streams, as in ViLBERT: at a connection each asks with its own queries and the other answers.

Source: Lu et al. 2019, arXiv:1908.02265, section 3; jiasenlu/vilbert_beta vilbert/vilbert.py `BertEncoder`,
`BertConnectionLayer` and the two poolers. What stands there before the first connection is an encoder's work here. Its
additive "co-attention mask" is switched off in the source and is left out.
Shapes: B rows; L, S tokens of the two streams; D width of a stream; W `width`; H heads.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from polymodal.config import Config
from polymodal.errors import ConfigError, ShapeError
from polymodal.fusion.early import initialize_as_bert
from polymodal.layers.attention import attention_weights
from polymodal.layers.mlp import Activation, Mlp
from polymodal.layers.packing import Layout
from polymodal.layers.pooling import masked_mean
from polymodal.layers.transformer import Transformer
from polymodal.types import Fused, Tokens


class StreamConfig(Config):
    """One of the two streams from the first connection on."""

    layers: tuple[int, ...] = Field((1, 1), min_length=1)  # the stream's own layers behind each connection
    heads: int = Field(4, ge=1)  # of its own layers
    mlp_width: int | None = None  # of its own layers and of its half of a connection; None: 4 x the stream's width
    activation: Activation = "gelu"


class CoattentionConfig(Config):
    kind: Literal["coattention"] = "coattention"
    width: int = Field(256, ge=1, le=2**16)  # of the attention between the streams, and of the joint state
    heads: int = Field(4, ge=1)  # of the connections
    first: StreamConfig = StreamConfig()  # of the model's first input
    second: StreamConfig = StreamConfig()
    join: Literal["product", "sum"] = "product"  # of the two streams' poolers
    eps: float = 1e-12
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> "CoattentionConfig":
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads ({self.heads}), got {self.width}")
        first, second = len(self.first.layers), len(self.second.layers)
        if first != second:
            raise ValueError(
                "first.layers and second.layers must have one number for each connection, "
                f"got {first} and {second} numbers"
            )
        if min(*self.first.layers, *self.second.layers) < 0:
            raise ValueError("layers must be at least 0")
        return self

    def build(self, widths: Mapping[str, int]) -> "Coattention":
        return Coattention(self, widths)


class Coattention(nn.Module):
    """The joint state is the product (or sum) of ReLU(linear(first token)) of both streams."""

    def __init__(self, config: CoattentionConfig, widths: Mapping[str, int]) -> None:
        """Raises ConfigError: there are not two inputs, or a stream's width is no multiple of its heads."""
        super().__init__()
        check_two("coattention", widths)
        self.config = config
        self.width, self.widths = config.width, dict(widths)
        streams = [
            _Stream(name, width, stream)
            for (name, width), stream in zip(widths.items(), (config.first, config.second), strict=True)
        ]
        self.stages = nn.ModuleList(_Stage(config, streams, number) for number in range(len(config.first.layers)))
        # ReLU, not BERT's tanh. The source's setting for what follows, "pooling_method", is not the one that it reads.
        self.poolers = nn.ModuleList(nn.Sequential(nn.Linear(s.width, config.width), nn.ReLU()) for s in streams)
        self.dropout = nn.Dropout(config.dropout)
        initialize_as_bert(self)

    def forward(self, tokens: Mapping[str, Tokens], present: Mapping[str, Tensor], *, maps: bool = False) -> Fused:
        """Both streams behind the last layer, and their joint state (B, W).

        Args:
            present: not read: a learned token stands for an absent input.
            maps: also give, for inputs text and image and connection i, `text->image.i` (B, H, L, S) and
                `image->text.i` (B, H, S, L): how much each token of the one looks at each of the other.
        """
        check_widths(tokens, self.widths)
        given = [tokens[name] for name in self.widths]
        # In training padding is left out; one who wants maps wants them as the tokens came.
        layouts = [Layout.of(one.mask, pack=self.training and not maps) for one in given]
        states = [layout.pack(one.sequence) for layout, one in zip(layouts, given, strict=True)]
        first, second = self.widths
        looks: dict[str, Tensor] = {}
        for number, stage in enumerate(self.stages):
            assert isinstance(stage, _Stage)
            if maps:
                forth, back = stage.connection.weights(states, layouts)
                looks |= {f"{first}->{second}.{number}": forth, f"{second}->{first}.{number}": back}
            states = stage(states, layouts)
        states = [layout.pad(x) for layout, x in zip(layouts, states, strict=True)]
        pairs = zip(self.widths, states, given, strict=True)
        out = {name: Tokens(x, one.mask, masked_mean(x, one.mask)) for name, x, one in pairs}
        return Fused(self._join(states), out, looks)

    def _join(self, states: list[Tensor]) -> Tensor:
        first, second = (pooler(x[:, 0]) for pooler, x in zip(self.poolers, states, strict=True))
        joined: Tensor = self.dropout(first * second if self.config.join == "product" else first + second)
        return joined


class _Stream(NamedTuple):
    name: str
    width: int
    config: StreamConfig

    @property
    def mlp_width(self) -> int:
        return self.config.mlp_width or 4 * self.width


class _Stage(nn.Module):
    """A connection, and the layers that each stream has until the next one."""

    def __init__(self, config: CoattentionConfig, streams: list[_Stream], number: int) -> None:
        super().__init__()
        self.connection = Connection(config, streams)
        self.layers = nn.ModuleList(_own_layers(config, stream, number) for stream in streams)

    def forward(self, states: list[Tensor], layouts: list[Layout]) -> list[Tensor]:
        states = self.connection(states, layouts)
        return [layers(x, layout) for layers, x, layout in zip(self.layers, states, layouts, strict=True)]


def _own_layers(config: CoattentionConfig, stream: _Stream, number: int) -> Transformer:
    own = stream.config
    if stream.width % own.heads:
        raise ConfigError(
            f'fusion "coattention": the width of "{stream.name}" must be a multiple of its heads ({own.heads}), '
            f"got {stream.width}"
        )
    return Transformer(
        own.layers[number],
        stream.width,
        own.heads,
        stream.mlp_width,
        own.activation,
        config.eps,
        norm="post",
        dropout=config.dropout,
    )


class Connection(nn.Module):
    """What a stream finds in the other one, softmax(q₁ k₂ᵀ / √d) v₂ and softmax(q₂ k₁ᵀ / √d) v₁, goes on in itself.

    The source's attention gives these two in the order of their values, the other stream's first, and swaps them later.
    """

    def __init__(self, config: CoattentionConfig, streams: list[_Stream]) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.first, self.second = (Side(config, stream) for stream in streams)

    def forward(self, states: list[Tensor], layouts: list[Layout]) -> list[Tensor]:
        """Both streams behind it, each as its layout says: (B, L, D), or (N, D) of its real tokens."""
        query1, key1, value1 = self.first.split(states[0], layouts[0])
        query2, key2, value2 = self.second.split(states[1], layouts[1])
        dropout = self.dropout if self.training else 0.0
        keys1, keys2 = (layout.keys for layout in layouts)
        found1 = scaled_dot_product_attention(query1, key2, value2, attn_mask=keys2, dropout_p=dropout)
        found2 = scaled_dot_product_attention(query2, key1, value1, attn_mask=keys1, dropout_p=dropout)
        return [self.first(states[0], found1, layouts[0]), self.second(states[1], found2, layouts[1])]

    def weights(self, states: list[Tensor], layouts: list[Layout]) -> tuple[Tensor, Tensor]:
        """How much the first stream looks at the second, (B, H, L, S), and back, (B, H, S, L); rows sum to 1."""
        query1, key1, _ = self.first.split(states[0], layouts[0])
        query2, key2, _ = self.second.split(states[1], layouts[1])
        return attention_weights(query1, key2, layouts[1].keys), attention_weights(query2, key1, layouts[0].keys)


class Side(nn.Module):
    """The half of a connection that belongs to one stream."""

    def __init__(self, config: CoattentionConfig, stream: _Stream) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(stream.width, 3 * config.width)
        self.out = nn.Linear(config.width, stream.width)
        self.norm1 = nn.LayerNorm(stream.width, eps=config.eps)
        self.mlp = Mlp(stream.width, stream.mlp_width, stream.config.activation)
        self.norm2 = nn.LayerNorm(stream.width, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def split(self, x: Tensor, layout: Layout) -> Tensor:
        """Queries, keys and values, (3, B, H, L, W / H), of (B, L, D) or packed tokens."""
        projected: Tensor = layout.pad(self.qkv(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return projected

    def forward(self, x: Tensor, context: Tensor, layout: Layout) -> Tensor:
        """As `x` lies, of itself and of what it found in the other stream, (B, H, L, W / H)."""
        x = self.norm1(x + self.dropout(self.out(layout.pack(context.transpose(1, 2).flatten(2)))))
        out: Tensor = self.norm2(x + self.dropout(self.mlp(x)))
        return out


def check_two(kind: str, widths: Mapping[str, int]) -> None:
    """Raises ConfigError: a fusion of two inputs was given another number."""
    if len(widths) != 2:
        raise ConfigError(
            f'fusion "{kind}" must have exactly 2 inputs, got {len(widths)} ({", ".join(widths)}); '
            '"early", "bottleneck" and "late" take any number'
        )


def check_widths(tokens: Mapping[str, Tokens], widths: Mapping[str, int]) -> None:
    """Raises ShapeError: an input's tokens have another width than its vector, after which the fusion was built."""
    for name, width in widths.items():
        got = tokens[name].sequence.shape[-1]
        if got != width:
            raise ShapeError(
                f'fusion: tokens of "{name}" must be as wide as its vector ({width}), got {got}; '
                "choose an encoder that reads one level, or a fusion of vectors such as late or gated"
            )
