"""One file a way to join: a config, and the module that `config.build(widths)` makes for inputs of these widths.

`forward(tokens, present, maps=False) -> Fused`. `tokens` and `present` have the same names in the same order. Rows that
lack an input come with a learned token in its place (see `missing`), so that nothing is ever empty; a fusion that
weighs its inputs leaves absent ones out by `present`.
"""

from typing import Annotated

from pydantic import Field

from polymodal.fusion.adversarial import AlignedConfig
from polymodal.fusion.attention_pool import AttentionPoolConfig
from polymodal.fusion.bottleneck import BottleneckConfig
from polymodal.fusion.coattention import CoattentionConfig
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

# One line a member, each a file of this folder.
FusionConfig = Annotated[
    LateConfig  # features or predictions averaged, or side by side
    | AttentionPoolConfig  # a learned query weighs the inputs
    | GatedConfig  # a gate for each feature
    | FilmConfig  # one input scales and shifts the others
    | TensorConfig  # all products of features
    | LowRankConfig  # the same through factors
    | AlignedConfig  # a fusion of vectors behind an adversary that makes the inputs look alike
    | SpatialConfig  # feature maps on one grid
    | CrossAttentionConfig  # one input looks at the others
    | BottleneckConfig  # inputs meet in a few shared tokens
    | MultConfig  # every input is retold by every other
    | HybridConfig  # early and late beside each other
    | EarlyConfig  # one encoder over all tokens
    | CoattentionConfig  # ViLBERT's connections
    | FuseTextConfig  # ALBEF's upper half: the text reads the other input
    | CrossModalConfig,  # LXMERT's layers
    Field(discriminator="kind"),
]
