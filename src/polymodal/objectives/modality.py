"""The discriminator of the fusion "aligned": it learns to tell the inputs apart, and they learn to look alike.

Source: Ganin et al. 2016, arXiv:1505.07818; see `fusion.adversarial`, whose gradient reversal makes one loss of two.
"""

from typing import Literal

from pydantic import Field

from polymodal.config import Config
from polymodal.errors import ConfigError
from polymodal.features import Features
from polymodal.fusion.adversarial import modality_loss
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import PretrainingHeadConfig
from polymodal.objectives.joint_step import JointObjective, JointStep, Known
from polymodal.types import StepResult


class ModalityConfig(Config):
    kind: Literal["modality"] = "modality"
    weight: float = Field(1.0, gt=0)

    def build(self, known: Known) -> "Modality":
        return Modality(self)


class Modality(JointObjective):
    def __init__(self, config: ModalityConfig) -> None:
        super().__init__()
        self.weight = config.weight

    def heads(self, config: MultimodalConfig, features: Features) -> dict[str, PretrainingHeadConfig]:
        if config.fusion.kind != "aligned":
            raise ConfigError(f'objective modality: it needs the fusion "aligned", got "{config.fusion.kind}"')
        return {}

    def step(self, step: JointStep) -> StepResult:
        maps = step.fused.maps if step.model.training else step.model.fuse(*step.encoded, maps=True).maps
        loss = modality_loss(maps["modality_logits"], step.encoded.present)
        return StepResult(loss, {"modality": loss.detach()})
