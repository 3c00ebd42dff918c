"""One file a way to join: a config, and the module that `config.build(widths)` makes for inputs of these widths.

`forward(tokens, present, maps=False) -> Fused`. `tokens` and `present` have the same names in the same order. Rows that
lack an input come with a learned token in its place (see `missing`), so that nothing is ever empty; a fusion that
weighs its inputs leaves absent ones out by `present`.
"""

from typing import Annotated

from pydantic import Field

from polymodal.fusion.coattention import CoattentionConfig
from polymodal.fusion.crossmodal import CrossModalConfig
from polymodal.fusion.early import EarlyConfig
from polymodal.fusion.fuse_text import FuseTextConfig
from polymodal.fusion.late import LateConfig

# One line a member, each a file of this folder.
FusionConfig = Annotated[
    LateConfig  # features or predictions averaged, or side by side
    | EarlyConfig  # one encoder over all tokens
    | CoattentionConfig  # ViLBERT's connections
    | FuseTextConfig  # ALBEF's upper half: the text reads the other input
    | CrossModalConfig,  # LXMERT's layers
    Field(discriminator="kind"),
]
