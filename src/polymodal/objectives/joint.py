"""Every objective of a model with several inputs.

One is added by a file with a config (its own `kind`, `build(known)`) and by one line here.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from polymodal.errors import ConfigError
from polymodal.features import Features
from polymodal.objectives.joint_step import Joint, JointObjective, JointStep, Known
from polymodal.objectives.mae import MaeConfig
from polymodal.objectives.masked_image import DenoisingConfig, MaskedImageConfig
from polymodal.objectives.masked_regions import MaskedRegionsConfig
from polymodal.objectives.masked_text import MaskedTextConfig
from polymodal.objectives.matching import JointContrastiveConfig, MatchingConfig
from polymodal.objectives.modality import ModalityConfig
from polymodal.objectives.supervised import SupervisedConfig
from polymodal.text import Tokenizer

JointObjectiveConfig = Annotated[
    SupervisedConfig  # the targets
    | MaskedTextConfig
    | MaskedRegionsConfig
    | MaskedImageConfig
    | DenoisingConfig
    | MaeConfig
    | MatchingConfig  # after the fusion
    | JointContrastiveConfig  # before it
    | ModalityConfig,  # the adversary of the fusion "aligned"
    Field(discriminator="kind"),
]


def build_objectives(
    configs: Sequence[JointObjectiveConfig], features: Features, tokenizers: Mapping[str, Tokenizer]
) -> Joint:
    """The objectives as one.

    Args:
        tokenizers: by the name of each text input.

    Raises:
        ConfigError: an objective asks for an input or target that is not there, two log by the same name, or
            two swap inputs.
    """
    names = [getattr(config, "head", config.kind) for config in configs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f'objectives: "{twice[0]}" is there twice; give one of them another `head`')
    built = [config.build(Known(features, tokenizers)) for config in configs]
    if sum(objective.swaps for objective in built) > 1:
        raise ConfigError('objectives: only one matching can have negatives "swap"; there is one masked batch')
    return Joint(built)


__all__ = ["Joint", "JointObjective", "JointObjectiveConfig", "JointStep", "Known", "build_objectives"]
