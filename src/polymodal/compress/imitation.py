"""What a student learns from its teachers in one training step, of either kind of model.

What a teacher says of a row is worked out once, on the teacher's own inputs: its tokenizer and preprocessing may be
others than the student's. Only layers are imitated live, on the student's batch.
Shapes: B rows; N all rows; C outputs of a target; D width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from polymodal.compress.layerwise import Layers
from polymodal.config import Config
from polymodal.features import Target
from polymodal.models.clip import Clip
from polymodal.models.multimodal import Multimodal
from polymodal.objectives.distillation import affinity, embedding, soft_labels
from polymodal.objectives.joint_step import JointObjective, JointStep
from polymodal.objectives.pairs import Pairs, Step
from polymodal.preprocess import ImagePreprocess
from polymodal.train.batches import PairBatch
from polymodal.train.locked import Known
from polymodal.train.module import ClipTraining
from polymodal.types import StepResult

Weight = Annotated[float, Field(ge=0)]


class Imitation(Config):
    """How much each part of what teachers say counts; 0 leaves it out."""

    logits: Weight = 0.0  # of targets
    affinity: Weight = 0.0  # of pictures and texts
    embedding: Weight = 0.0  # of vectors, or of the joint state
    hidden: Weight = 0.0  # of layers' states
    attention: Weight = 0.0
    temperature: float = Field(2.0, gt=0)  # of logits

    @property
    def layers(self) -> bool:
        return bool(self.hidden or self.attention)


def _weighed(losses: Mapping[str, Tensor], imitation: Imitation) -> StepResult:
    loss = torch.stack([getattr(imitation, name) * value for name, value in losses.items()]).sum()
    return StepResult(loss, {f"teacher_{name}": value.detach() for name, value in losses.items()})


def _together(results: Sequence[tuple[float, StepResult]]) -> StepResult:
    """The weighted sum; a log tells the mean over teachers."""
    loss = torch.stack([weight * result.loss for weight, result in results]).sum()
    names = results[0][1].log
    return StepResult(loss, {name: torch.stack([one.log[name] for _, one in results]).mean() for name in names})


def _projection(width: int, wanted: int) -> nn.Module:
    return nn.Identity() if width == wanted else nn.Linear(width, wanted, bias=False)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures and texts


@dataclass(frozen=True)
class PairTeacher:
    weight: float
    images: Known  # its unit vectors by the picture's number
    texts: Known  # and by the caption's key
    scale: Tensor  # ()
    model: Clip | None = None  # where its layers are imitated


class PairStep(Step):
    """A step that also knows which pictures and captions it sees."""

    def __init__(
        self, model: Clip, batch: PairBatch, preprocess: ImagePreprocess, embed: Callable[[PairBatch], Pairs]
    ) -> None:
        super().__init__(model, batch.pairs, lambda: embed(batch))
        self.pictures, self.captions = batch.pictures, batch.captions  # numbers and keys, (B,) each
        self._preprocess = preprocess

    @cached_property
    def normal(self) -> Tensor:
        """Normalized pixels (B, 3, H, W)."""
        return self._preprocess.normalize(self.batch.pixels)


class TaughtPairs(nn.Module):
    """The objective of a `Clip` that has teachers."""

    reads = frozenset({"scale"})
    weight = 1.0

    def __init__(self, imitation: Imitation, student: Clip, teachers: Sequence[PairTeacher]) -> None:
        super().__init__()
        self.imitation, self.teachers = imitation, tuple(teachers)
        width = student.config.shared_width
        self.projections = nn.ModuleList(_projection(width, one.images.pooled.shape[1]) for one in teachers)
        towers = [(towers_of(student), towers_of(one.model)) for one in teachers if one.model is not None]
        self.layers = nn.ModuleList(Layers(own, other) for own, other in towers)

    def begin(self) -> None:
        for one in self.layers:
            assert isinstance(one, Layers)
            one.clear()

    def stop(self) -> None:
        for one in self.layers:
            assert isinstance(one, Layers)
            one.stop()

    def step(self, step: Step) -> StepResult:
        if not isinstance(step, PairStep):  # of a validation, which asks how good the student is by itself
            return StepResult(step.pairs.image.new_zeros(()), {})
        results = [(one.weight, self._of(nth, one, step)) for nth, one in enumerate(self.teachers)]
        return _together(results)

    def _of(self, nth: int, teacher: PairTeacher, step: PairStep) -> StepResult:
        pairs, imitation = step.pairs, self.imitation
        image, text = teacher.images(step.pictures), teacher.texts(step.captions)
        losses: dict[str, Tensor] = {}
        if imitation.affinity:
            scale = teacher.scale.to(image.device)
            losses["affinity"] = affinity((pairs.image, pairs.text), (image, text), pairs.scale, scale)
        if imitation.embedding:
            project = self.projections[nth]
            apart = embedding(project(pairs.image), image) + embedding(project(pairs.text), text)
            losses["embedding"] = apart / 2
        if teacher.model is not None:
            losses |= self._of_layers(nth, teacher.model, step)
        return _weighed(losses, imitation)

    def _of_layers(self, nth: int, model: Clip, step: PairStep) -> dict[str, Tensor]:
        layers = self.layers[nth]
        assert isinstance(layers, Layers)
        with torch.no_grad():
            seen = model.image_encoder(step.normal)
            model.text_encoder(step.batch.text)
        masks = {"image_encoder": seen.mask, "text_encoder": step.batch.text.mask}
        return layers.losses(masks, hidden=bool(self.imitation.hidden), maps=bool(self.imitation.attention))


class TaughtClipTraining(ClipTraining):
    """The training of a `Clip` one of whose objectives is `TaughtPairs`."""

    def weights_of_objectives(self) -> list[nn.Parameter]:
        return [weight for one in self.objectives if isinstance(one, nn.Module) for weight in one.parameters()]

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        for one in self.objectives:
            if isinstance(one, TaughtPairs):
                one.to(batch.pairs.pixels.device).begin()
        loss, self.shown = self._loss(PairStep(self.model, batch, self.preprocess, self._pairs))
        return self.finite(loss, batch.pairs.rows.tolist)


def towers_of(model: Clip | Multimodal) -> dict[str, nn.Module]:
    """Encoders by name."""
    if isinstance(model, Clip):
        return {"image_encoder": model.image_encoder, "text_encoder": model.text_encoder}
    return {name: model.encoders[name] for name in model.encoders}


# ---------------------------------------------------------------------------------------------------------------------
# Rows of a table


@dataclass(frozen=True)
class RowTeacher:
    weight: float
    outputs: Mapping[str, Known]  # by target, in the student's scale: (N, C), of tokens (N, L, C), by the row's number
    states: Known  # its joint states (N, D)
    model: Multimodal | None = None  # where its layers are imitated


class TaughtRows(JointObjective):
    """The objective of a `Multimodal` that has teachers."""

    def __init__(
        self,
        imitation: Imitation,
        student: Multimodal,
        targets: Mapping[str, Target],
        teachers: Sequence[RowTeacher],
    ) -> None:
        super().__init__()
        self.weight, self.imitation, self.targets, self.teachers = 1.0, imitation, dict(targets), tuple(teachers)
        width = student.fusion.width
        assert isinstance(width, int)
        self.projections = nn.ModuleList(_projection(width, one.states.pooled.shape[1]) for one in teachers)
        towers = [(towers_of(student), towers_of(one.model)) for one in teachers if one.model is not None]
        self.layers = nn.ModuleList(Layers(own, other) for own, other in towers)

    def stop(self) -> None:
        for one in self.layers:
            assert isinstance(one, Layers)
            one.stop()

    def hide(self, step: JointStep) -> None:
        """Nothing is hidden; but here no encoder has run yet."""
        for one in self.layers:
            assert isinstance(one, Layers)
            one.clear()

    def step(self, step: JointStep) -> StepResult:
        return _together([(one.weight, self._of(nth, one, step)) for nth, one in enumerate(self.teachers)])

    def _of(self, nth: int, teacher: RowTeacher, step: JointStep) -> StepResult:
        imitation, rows, losses = self.imitation, step.batch.rows, dict[str, Tensor]()
        if imitation.logits:
            each = [self._soft(name, known(rows), step) for name, known in teacher.outputs.items()]
            losses["logits"] = torch.stack(each).sum()
        if imitation.embedding:
            losses["embedding"] = embedding(self.projections[nth](step.clean.fused.pooled), teacher.states(rows))
        if teacher.model is not None:
            losses |= self._of_layers(nth, teacher.model, step)
        return _weighed(losses, imitation)

    def _soft(self, name: str, wanted: Tensor, step: JointStep) -> Tensor:
        target, said = self.targets[name], step.clean.predictions[name].float()
        if target.task == "tokens":
            mask = step.encoded.tokens[target.text].mask
            said, wanted = said[mask], wanted[:, : said.shape[1]][mask]
        return soft_labels(target.task, said, wanted, self.imitation.temperature)

    def _of_layers(self, nth: int, model: Multimodal, step: JointStep) -> dict[str, Tensor]:
        layers, (tokens, present) = self.layers[nth], step.encoded
        assert isinstance(layers, Layers)
        with torch.no_grad():
            model.encode(step.batch.inputs, step.batch.present)
        # What a row lacks, or has lost to `input_dropout`, the student was not told.
        masks = {name: one.mask & present[name][:, None] for name, one in tokens.items()}
        return layers.losses(masks, hidden=bool(self.imitation.hidden), maps=bool(self.imitation.attention))
