"""Masked regions: a region's features are hidden, and the detector's opinion of it, or the features, found again.

Of a picture the regions are the cells of its encoder's grid, whose features are found again. Their backbone should be
locked, as a detector is: features that learn can be made easy to find by saying nothing.
Source: Lu et al. 2019, arXiv:1908.02265 (ViLBERT), section 3.2 and code jiasenlu/vilbert_beta: its losses 0 (KL) and 1
(features). Where no region was masked the source divides by 0; here the loss is 0.
Shapes: B rows; R regions; M masked regions; K classes of the detector; F width of features.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, mse_loss

from polymodal.config import Config
from polymodal.encoders.regions import GridRegionsConfig, GridRegionsEncoder
from polymodal.errors import ConfigError, ShapeError
from polymodal.features import Features, ImageInput, RegionsInput
from polymodal.models.multimodal import MultimodalConfig, blank
from polymodal.models.pretraining import MaskedRegionsHeadConfig, PretrainingHeadConfig
from polymodal.objectives.joint_step import JointObjective, JointStep, Known
from polymodal.types import Regions, StepResult

Predicts = Literal["classes", "features"]


class MaskedRegionsConfig(Config):
    kind: Literal["masked_regions"] = "masked_regions"
    weight: float = Field(1.0, gt=0)
    input: str = "regions"  # or pictures that an encoder of grid regions reads
    head: str = "masked_regions"  # its name in `model.pretraining`, and of the loss in logs
    rate: float = Field(0.15, gt=0, lt=1)  # of regions
    predicts: Predicts | None = None  # None: the detector's classes where the data has them, else the features

    def build(self, known: Known) -> "MaskedRegions":
        given = known.features.inputs.get(self.input)
        if not isinstance(given, RegionsInput | ImageInput):
            raise ConfigError(f'objective masked_regions: "{self.input}" is no input of regions or pictures')
        classes = given.classes if isinstance(given, RegionsInput) else 0
        if self.predicts == "classes" and not classes:
            raise ConfigError(
                f'objective masked_regions: "{given.column}" has no classes of a detector; set predicts: features'
            )
        return MaskedRegions(self, self.predicts or ("classes" if classes else "features"))


def region_classes_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """KL of the detector's distribution from the predicted one, in nats: summed over classes, mean over regions.

    Args:
        logits: (M, K).
        classes: (M, K), each row sums to 1.
    """
    return kl_div(log_softmax(logits.float(), -1), classes, reduction="sum") / max(1, len(logits))


def region_features_loss(predicted: Tensor, features: Tensor) -> Tensor:
    """Mean squared error over M x F; 0 without regions."""
    return mse_loss(predicted.float(), features, reduction="sum") / max(1, features.numel())


class MaskedRegions(JointObjective):
    def __init__(self, config: MaskedRegionsConfig, predicts: Predicts) -> None:
        super().__init__()
        self.config = config
        self.weight = config.weight
        self.predicts = predicts

    def heads(self, config: MultimodalConfig, features: Features) -> dict[str, PretrainingHeadConfig]:
        given = features.inputs[self.config.input]
        if isinstance(given, RegionsInput):
            count = given.classes if self.predicts == "classes" else given.width
        else:
            encoder = config.encoders[self.config.input]
            if not isinstance(encoder, GridRegionsConfig):
                raise ConfigError(
                    f'objective masked_regions: "{self.config.input}" is read by {encoder.kind}, which has no regions; '
                    "give it an encoder of kind grid_regions, or hide its pixels by masked_image"
                )
            count = encoder.feature_width
        return {self.config.head: MaskedRegionsHeadConfig(input=self.config.input, outputs={self.predicts: count})}

    def hide(self, step: JointStep) -> Tensor | None:
        regions = self._regions(step)
        if regions is None:
            return None  # a batch may lack an input altogether
        chosen, fate = step.uniform(2, *regions.mask.shape)
        places: Tensor = (chosen < self.config.rate) & regions.mask & step.paired.present[self.config.input][:, None]
        zeroed = places & (fate < 0.9)  # one in ten stays as it is
        step.hidden[self.config.input] = regions._replace(features=regions.features.masked_fill(zeroed[..., None], 0.0))
        return places

    def _regions(self, step: JointStep) -> Regions | None:
        """Those of the input; pixels are looked at here, and the step goes on with their cells."""
        name = self.config.input
        given = step.hidden.get(name)
        if isinstance(given, Tensor):
            encoder = step.model.encoders[name]
            assert isinstance(encoder, GridRegionsEncoder)
            pixels = blank(given, step.paired.present[name])
            assert isinstance(pixels, Tensor)
            given = encoder.cells(pixels)
            step.paired = step.paired._replace(inputs={**step.paired.inputs, name: given})
        return given if isinstance(given, Regions) else None

    def step(self, step: JointStep) -> StepResult:
        places = step.prepare(self)
        sequence = step.masked.fused.tokens[self.config.input].sequence
        given = step.paired.inputs.get(self.config.input)
        if places is None or not isinstance(given, Regions):
            states, places = sequence[:0], torch.zeros(0, sequence.shape[1], dtype=torch.bool, device=sequence.device)
            target = sequence.new_zeros(0, 0)
        else:
            places = places & step.masked.present[self.config.input][:, None]
            # A global region, where the encoder has one, stands in front.
            states = sequence[:, sequence.shape[1] - places.shape[1] :]
            target = self._target(given)[places].detach()
        found = step.model.pretraining[self.config.head](states[places])[self.predicts]
        if self.predicts == "features":
            loss = region_features_loss(found, target.reshape(found.shape))
            return StepResult(loss, {self.config.head: loss.detach()})
        loss = region_classes_loss(found, target.reshape(found.shape))
        right = (found.argmax(1) == target.reshape(found.shape).argmax(1)).float().sum() / max(1, len(found))
        return StepResult(loss, {self.config.head: loss.detach(), f"{self.config.head}_accuracy": right})

    def _target(self, regions: Regions) -> Tensor:
        if self.predicts == "features":
            return regions.features
        if regions.classes is None:
            raise ShapeError(
                f'objective masked_regions: input "{self.config.input}" came without the detector\'s classes'
            )
        return regions.classes
