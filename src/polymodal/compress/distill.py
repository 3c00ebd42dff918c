"""Distillation: a smaller model learns from what its teacher says of the rows.

    distill:epochs=2,lr=1e-4                     the artifact as it was given teaches what the chain has made of it
    distill:teacher=runs/large                   another teacher, with a tokenizer and a preprocessing of its own
    distill:teacher=[runs/a,runs/b]              several
    distill:hidden=1,attention=1                 layers too: the teacher must see the same tokens

What a teacher says is worked out once, before training. Weights that were pruned to zero stay zero.
Sources of the losses: `objectives/distillation.py`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from polymodal.artifact import Artifact
from polymodal.compress.imitation import Imitation, PairTeacher, RowTeacher, TaughtPairs, TaughtRows, Weight
from polymodal.compress.learning import Learning, TeachPairs, TeachRows, learn_pairs, learn_rows, refuse_fixed
from polymodal.compress.members import read_member
from polymodal.compress.step import Work
from polymodal.config import Config
from polymodal.data.manifest import Manifest
from polymodal.engine import Engine, Predictor
from polymodal.engine.answers import stacked
from polymodal.errors import ArtifactError, ConfigError
from polymodal.evaluate.vectors import embed_pictures, embed_texts
from polymodal.features import Features, Target
from polymodal.models.clip import Clip
from polymodal.models.ensemble import ClipEnsemble, Ensemble
from polymodal.models.multimodal import Multimodal
from polymodal.preprocess import Preprocess
from polymodal.text import Tokenizer
from polymodal.train.batches import caption_key
from polymodal.train.locked import Known


class Teaching(Config):
    """Who teaches, and how much each part of what is taught counts."""

    teacher: tuple[str, ...] = ()  # artifacts or runs; none, in a chain: the artifact as it was given
    teacher_weights: tuple[Weight, ...] = ()  # of several, as proportions; none: all alike
    hard: Weight = 0.5  # of what the labels, or the pairs, say themselves
    logits: Weight | None = None  # None: 1 for targets
    affinity: Weight | None = None  # None: 1 for pictures and texts
    embedding: Weight | None = None  # None: 1 for pictures and texts, 0 for targets
    hidden: Weight = 0.0
    attention: Weight = 0.0
    temperature: float = Field(2.0, gt=0)  # of logits

    @field_validator("teacher", mode="before")
    @classmethod
    def _one(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @field_validator("teacher_weights", mode="before")
    @classmethod
    def _numbers(cls, given: Any) -> Any:
        return (given,) if isinstance(given, int | float) else given

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.teacher_weights and len(self.teacher_weights) != len(self.teacher):
            raise ValueError(f"teacher_weights must be {len(self.teacher)} numbers, one for each teacher")
        if self.teacher_weights and not sum(self.teacher_weights):
            raise ValueError("teacher_weights must not all be 0")
        return self

    def of_pairs(self, work: Work, student: Clip) -> TeachPairs:
        """What makes the objective of a `Clip` from its rows.

        Raises:
            ArtifactError: a teacher cannot teach it.
            ConfigError: an option is for another kind of model.
        """
        imitation, teachers = self._imitation(1.0, affinity=1.0, other="logits"), self._teachers(work)

        def teach(parts: Sequence[Manifest], numbers: Sequence[np.ndarray]) -> TaughtPairs:
            known = [_pair_teacher(one, share, parts, numbers, work, imitation) for one, share in teachers]
            return TaughtPairs(imitation, student, known)

        return teach

    def of_rows(self, work: Work, student: Multimodal) -> TeachRows:
        """The same of a `Multimodal`."""
        imitation, teachers = self._imitation(0.0, logits=1.0, other="affinity"), self._teachers(work)

        def teach(parts: Sequence[Manifest]) -> TaughtRows:
            known = [_row_teacher(one, share, parts, work, imitation) for one, share in teachers]
            return TaughtRows(imitation, student, _features(work).targets, known)

        return teach

    def _imitation(self, embedding: float, *, other: str, **usual: float) -> Imitation:
        """The weights of the losses, where these are what counts by itself.

        Raises:
            ConfigError: `other`, a loss of another kind of model, is asked for, or nothing is.
        """
        if getattr(self, other):
            kinds = {"logits": "models that predict targets", "affinity": "models of pictures and texts"}
            raise ConfigError(f'step "distill": {other} is for {kinds[other]}; leave it out')
        weights = {"embedding": embedding, **usual}
        chosen = {name: value if getattr(self, name) is None else getattr(self, name)
                  for name, value in weights.items()}  # fmt: skip
        found = Imitation(hidden=self.hidden, attention=self.attention, temperature=self.temperature, **chosen)
        if not any(chosen.values()) and not found.layers:
            raise ConfigError('step "distill": every loss of the teacher has weight 0; use finetune')
        return found

    def _teachers(self, work: Work) -> list[tuple[Artifact, float]]:
        """With their shares, which sum to 1.

        Raises:
            ArtifactError: one cannot be loaded, or is a model of another kind.
        """
        found = [read_member(source) for source in self.teacher] or [work.artifact]
        weights = self.teacher_weights or (1.0,) * len(found)
        for one in found:
            if isinstance(one.preprocess, Features) != isinstance(work.preprocess, Features):
                raise ArtifactError(
                    f'step "distill": teacher "{one.folder}" is not of the student\'s kind: one predicts targets, the '
                    "other compares pictures and texts"
                )
        return [(one, weight / sum(weights)) for one, weight in zip(found, weights, strict=True)]


class Distill(Learning, Teaching):
    kind: Literal["distill"] = "distill"
    epochs: int = Field(2, ge=1)

    def run(self, work: Work) -> Work:
        """
        Raises:
            ArtifactError: the model cannot learn, or a teacher cannot teach it.
            ConfigError: an option is for another kind of model, or nothing is left to learn.
            DataError: the rows do not allow it.
        """
        refuse_fixed(work, self.kind)
        model = work.copy()
        if isinstance(model, Clip):
            learn_pairs(work, model, self, self.hard, self.of_pairs(work, model))
        else:
            assert isinstance(model, Multimodal)
            learn_rows(work, model, self, self.hard, self.of_rows(work, model))
        return replace(work, model=model)


def _features(work: Work) -> Features:
    assert isinstance(work.preprocess, Features)
    return work.preprocess


# ---------------------------------------------------------------------------------------------------------------------
# What teachers say


def _pair_teacher(
    teacher: Artifact,
    share: float,
    parts: Sequence[Manifest],
    numbers: Sequence[np.ndarray],
    work: Work,
    imitation: Imitation,
) -> PairTeacher:
    assert isinstance(teacher.model, Clip)
    assert isinstance(teacher.preprocess, Preprocess)
    work.say(f"looking at {sum(map(len, parts)):,} rows once, as {teacher.folder} sees them")
    # A copy, because what loads a model for speed may change its layers.
    model, name = copy.deepcopy(teacher.model), str(teacher.folder)
    engine = Engine(model, teacher.tokenizer, teacher.preprocess, name=name, device="cpu", backend="torch")
    images, texts = [], []
    for rows, own in zip(parts, numbers, strict=True):
        places = list(range(len(rows)))
        pictures, _ = embed_pictures(engine, rows, places, progress=True)
        captions, _ = embed_texts(engine, rows, places, progress=True)
        images.append((torch.tensor(own[pictures.rows]), torch.from_numpy(pictures.vectors)))
        keys = torch.tensor([caption_key(text) for text in captions.texts])
        texts.append((keys, torch.from_numpy(captions.vectors)))
    return PairTeacher(
        weight=share,
        images=_known(images),
        texts=_known(texts),
        scale=teacher.model.log_scale.detach().exp(),
        model=_layers_of(teacher, work, imitation),
    )


def _row_teacher(
    teacher: Artifact, share: float, parts: Sequence[Manifest], work: Work, imitation: Imitation
) -> RowTeacher:
    assert isinstance(teacher.model, Multimodal | Ensemble)
    assert isinstance(teacher.preprocess, Features)
    shared = _shared_targets(teacher, _features(work), imitation)
    work.say(f"looking at {sum(map(len, parts)):,} rows once, as {teacher.folder} sees them")
    model, name = copy.deepcopy(teacher.model), str(teacher.folder)
    predictor = Predictor(model, teacher.tokenizer, teacher.preprocess, name=name, device="cpu", backend="torch")
    outputs: dict[str, list[Tensor]] = {name: [] for name in shared}
    states, numbers = [], torch.tensor(np.concatenate([rows.row_numbers for rows in parts]), dtype=torch.int64)
    for rows in parts:
        said = predictor.outputs(predictor.rows(rows), progress=True) if shared else {}
        for name, own in shared.items():
            outputs[name].append(_scaled(said[name], teacher.preprocess.targets[name], own))
        states.append(torch.from_numpy(predictor.embed(rows)) if imitation.embedding else torch.zeros(len(rows), 1))
    return RowTeacher(
        weight=share,
        outputs={name: Known(numbers, stacked(each)) for name, each in outputs.items()},
        states=Known(numbers, torch.cat(states)),
        model=_layers_of(teacher, work, imitation),
    )


def _known(parts: Sequence[tuple[Tensor, Tensor]]) -> Known:
    return Known(torch.cat([numbers for numbers, _ in parts]), torch.cat([vectors for _, vectors in parts]))


def _shared_targets(teacher: Artifact, features: Features, imitation: Imitation) -> Mapping[str, Target]:
    """The student's targets that the teacher answers too.

    Raises:
        ArtifactError: there is none, or the two mean different things by one.
    """
    assert isinstance(teacher.preprocess, Features)
    if not imitation.logits:
        return {}
    theirs = teacher.preprocess.targets
    shared = {name: target for name, target in features.targets.items() if name in theirs}
    if not shared:
        raise ArtifactError(
            f'step "distill": teacher "{teacher.folder}" predicts {", ".join(theirs) or "nothing"}, the student '
            f"{', '.join(features.targets) or 'nothing'}: no target in common; set logits=0,embedding=1 to learn its "
            "joint state"
        )
    for name, target in shared.items():
        if (target.task, target.classes) != (theirs[name].task, theirs[name].classes):
            raise ArtifactError(
                f'step "distill": target "{name}" is {_told(theirs[name])} to teacher "{teacher.folder}" and '
                f"{_told(target)} to the student"
            )
        if target.task == "tokens" and not _same_text(teacher, features, name):
            raise ArtifactError(
                f'step "distill": target "{name}" labels words, and teacher "{teacher.folder}" divides texts otherwise'
            )
    return shared


def _told(target: Target) -> str:
    classes = (
        f" ({', '.join(target.classes[:5])}{', ...' if len(target.classes) > 5 else ''})" if target.classes else ""
    )
    return f"{target.task}{classes}"


def _same_text(teacher: Artifact, features: Features, name: str) -> bool:
    assert isinstance(teacher.preprocess, Features)
    own, theirs = features.targets[name].text, teacher.preprocess.targets[name].text
    return features.inputs[own] == teacher.preprocess.inputs[theirs]


def _scaled(outputs: Tensor, theirs: Target, own: Target) -> Tensor:
    """Values of a regression in the student's scale."""
    if own.task != "regression":
        return outputs
    return (outputs * theirs.std + theirs.mean - own.mean) / own.std


def _layers_of(teacher: Artifact, work: Work, imitation: Imitation) -> Any:
    """The teacher's model, where its layers are imitated.

    Raises:
        ArtifactError: it does not see what the student sees.
    """
    if not imitation.layers:
        return None
    if isinstance(teacher.model, Ensemble | ClipEnsemble):
        raise ArtifactError(f'step "distill": teacher "{teacher.folder}" is an ensemble; its layers cannot be imitated')
    if _inputs(teacher.preprocess) != _inputs(work.preprocess) or not _same_words(teacher.tokenizer, work.tokenizer):
        raise ArtifactError(
            f'step "distill": hidden and attention compare token by token, but teacher "{teacher.folder}" sees the '
            "inputs otherwise (tokenizer, sizes, columns); leave both out"
        )
    # Of its own, so that hooks and devices of the training leave the artifact as it was.
    return copy.deepcopy(teacher.model).eval().requires_grad_(False)


def _inputs(preprocess: Preprocess | Features) -> Any:
    return preprocess.inputs if isinstance(preprocess, Features) else preprocess


def _same_words(one: Tokenizer | None, other: Tokenizer | None) -> bool:
    return (one and one.backend.to_str()) == (other and other.backend.to_str())
