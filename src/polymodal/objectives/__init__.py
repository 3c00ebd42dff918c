"""Objectives: what a model is trained for. The pure function first, then its config and the part of a training step.

An objective is added by a file with a config (its own `kind`) and by one line in `ObjectiveConfig`.
"""

from typing import Annotated

from pydantic import Field

from polymodal.objectives.contrastive import (
    HardNegativeConfig,
    InfoNceConfig,
    SiglipConfig,
    hard_negative,
    info_nce,
    siglip,
)
from polymodal.objectives.pairs import Objective, Pairs, Step, belongs

ObjectiveConfig = Annotated[InfoNceConfig | SiglipConfig | HardNegativeConfig, Field(discriminator="kind")]

__all__ = [
    "HardNegativeConfig",
    "InfoNceConfig",
    "Objective",
    "ObjectiveConfig",
    "Pairs",
    "SiglipConfig",
    "Step",
    "belongs",
    "hard_negative",
    "info_nce",
    "siglip",
]
