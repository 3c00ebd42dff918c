"""Every fusion by its name, in sizes that the rows can teach, for comparing them on one table."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from polymodal.encoders import EncoderConfig, ResnetConfig, VitConfig
from polymodal.errors import ConfigError, did_you_mean
from polymodal.fusion import FusionConfig
from polymodal.fusion.adversarial import AlignedConfig
from polymodal.fusion.attention_pool import AttentionPoolConfig
from polymodal.fusion.bottleneck import BottleneckConfig
from polymodal.fusion.coattention import CoattentionConfig, StreamConfig
from polymodal.fusion.cross_attention import CrossAttentionConfig
from polymodal.fusion.crossmodal import CrossModalConfig
from polymodal.fusion.early import EarlyConfig
from polymodal.fusion.film import FilmConfig
from polymodal.fusion.fuse_text import FuseTextConfig
from polymodal.fusion.gated import GatedConfig
from polymodal.fusion.hybrid import HybridConfig
from polymodal.fusion.late import LateConfig
from polymodal.fusion.low_rank import LowRankConfig
from polymodal.fusion.multimodal_transformer import MultConfig
from polymodal.fusion.spatial import SpatialConfig
from polymodal.fusion.tensor import TensorConfig
from polymodal.train.multimodal.choose import sizes

MOST_PRODUCTS = 4096  # of a tensor fusion: its first layer has so many inputs
DROPOUT = 0.1
EPS = 1e-5


class _Table(NamedTuple):
    """What the sizes follow from."""

    encoders: Mapping[str, EncoderConfig]
    width: int
    layers: int

    @property
    def heads(self) -> int:
        return heads_of(self.width)


def heads_of(width: int) -> int:
    """About one head every 32 features, and a divisor of the width."""
    return math.gcd(width, max(1, width // 32))


def fusion_named(name: str, encoders: Mapping[str, EncoderConfig], rows: int) -> FusionConfig:
    """The fusion that goes by `name`, as wide and deep as `choose.sizes` says.

    "concat" is late fusion with an MLP over all inputs side by side, "late" the one that averages them.

    Args:
        rows: that it learns from.

    Raises:
        ConfigError: none goes by this name; or it cannot read these inputs.
    """
    if name not in MAKERS:
        raise ConfigError(f'no fusion is named "{name}"{did_you_mean(name, MAKERS) or "; known: " + ", ".join(MAKERS)}')
    width, layers, _ = sizes(rows)
    return MAKERS[name](_Table(encoders, width, min(layers, 2)))


def _early(table: _Table) -> EarlyConfig:
    return EarlyConfig(width=table.width, layers=table.layers, heads=table.heads, dropout=DROPOUT, eps=EPS, pool="mean")


def _tensor(table: _Table) -> TensorConfig:
    inner = math.floor(MOST_PRODUCTS ** (1 / len(table.encoders)) + 1e-9) - 1
    if inner < 1:
        raise ConfigError(
            f'fusion "tensor": {len(table.encoders)} inputs have too many products; take "low_rank", which never '
            "writes them out"
        )
    return TensorConfig(inner=min(16, inner), hidden=table.width, width=table.width)


def _aligned(table: _Table) -> AlignedConfig:
    inner = LateConfig(weights="concat", width=table.width)
    return AlignedConfig(inner=inner, common=table.width, hidden=table.width)


def _spatial(table: _Table) -> SpatialConfig:
    if flat := [name for name, encoder in table.encoders.items() if encoder.reads != "image"]:
        raise ConfigError(f'fusion "spatial" lays pictures on one grid; no picture: {", ".join(flat)}')
    leading = {
        name: 1 for name, encoder in table.encoders.items() if isinstance(encoder, VitConfig) and encoder.class_token
    }
    sides = [
        side for encoder in table.encoders.values() if (side := _side(encoder)) is not None
    ]  # of those that say so
    return SpatialConfig(grid=max(sides, default=7), leading=leading, width=table.width)


def _side(encoder: EncoderConfig) -> int | None:
    match encoder:
        case VitConfig(image_size=size, patch_size=patch):
            return size // patch
        case ResnetConfig(image_size=size):
            return math.ceil(size / 32)  # five times halved
        case _:
            return None


def _mult(table: _Table) -> MultConfig:
    stream = max(32, table.width // 2)
    return MultConfig(
        stream=stream, layers=table.layers, heads=heads_of(stream), dropout=DROPOUT, embed_dropout=DROPOUT
    )


def _coattention(table: _Table) -> CoattentionConfig:
    streams = [
        StreamConfig(layers=(1,) * table.layers, heads=heads_of(encoder.width)) for encoder in table.encoders.values()
    ]
    if len(streams) != 2:
        raise _two("coattention", table)
    # A sum, for the product of two small states teaches slowly where nothing was trained before.
    return CoattentionConfig(
        width=table.width,
        heads=table.heads,
        first=streams[0],
        second=streams[1],
        join="sum",
        eps=EPS,
        dropout=DROPOUT,
    )


def _crossmodal(table: _Table) -> CrossModalConfig:
    if len(table.encoders) != 2:
        raise _two("crossmodal", table)
    return CrossModalConfig(width=table.width, layers=table.layers, heads=table.heads, eps=EPS, dropout=DROPOUT)


def _fuse_text(table: _Table) -> FuseTextConfig:
    if len(table.encoders) != 2:
        raise _two("fuse_text", table)
    texts = [name for name, encoder in table.encoders.items() if encoder.reads == "text"]
    if not texts:
        raise ConfigError(f'fusion "fuse_text": a text reads the other input; no text: {", ".join(table.encoders)}')
    heads = heads_of(table.encoders[texts[0]].width)
    return FuseTextConfig(text=texts[0], layers=table.layers, heads=heads, eps=EPS, dropout=DROPOUT)


def _two(kind: str, table: _Table) -> ConfigError:
    given = ", ".join(table.encoders)
    return ConfigError(f'fusion "{kind}" joins exactly two inputs, got {len(table.encoders)} ({given})')


MAKERS: Mapping[str, Callable[[_Table], FusionConfig]] = {
    "late": lambda table: LateConfig(width=table.width),
    "concat": lambda table: LateConfig(weights="concat", width=table.width),
    "attention_pool": lambda table: AttentionPoolConfig(width=table.width),
    "gated": lambda table: GatedConfig(width=table.width),
    "film": lambda table: FilmConfig(width=table.width),
    "tensor": _tensor,
    "low_rank": lambda table: LowRankConfig(width=table.width),
    "aligned": _aligned,
    "spatial": _spatial,
    "cross_attention": lambda table: CrossAttentionConfig(
        width=table.width, layers=table.layers, heads=table.heads, dropout=DROPOUT
    ),
    "bottleneck": lambda table: BottleneckConfig(
        width=table.width, layers=max(2, table.layers), heads=table.heads, dropout=DROPOUT
    ),
    "mult": _mult,
    "hybrid": lambda table: HybridConfig(early=_early(table), late=LateConfig(width=table.width)),
    "early": _early,
    "coattention": _coattention,
    "fuse_text": _fuse_text,
    "crossmodal": _crossmodal,
}
