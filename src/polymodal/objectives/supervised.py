"""Supervised: the losses of all targets, each over the labels that are known.

Shapes: B rows; L tokens; C classes, labels or answers; n rows, or tokens, whose label is known.
"""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    mse_loss,
)

from polymodal.config import Config
from polymodal.errors import ConfigError, did_you_mean
from polymodal.features import Features, Target
from polymodal.models.multimodal import Multimodal, MultimodalConfig
from polymodal.models.pretraining import PretrainingHeadConfig
from polymodal.objectives.balance import BalanceConfig, SumConfig
from polymodal.objectives.joint_step import JointObjective, JointStep, Known
from polymodal.types import StepResult


class SupervisedConfig(Config):
    kind: Literal["supervised"] = "supervised"
    weight: float = Field(1.0, gt=0)
    targets: tuple[str, ...] | None = None  # None: all
    balance: BalanceConfig = SumConfig()
    class_weights: dict[str, tuple[Annotated[float, Field(gt=0)], ...]] = Field({})  # by the target's name
    huber: float | None = Field(None, gt=0)  # of regression, in standard deviations: errors beyond it count linearly

    def build(self, known: Known) -> "Supervised":
        targets = known.features.targets
        for name in [*(self.targets or ()), *self.class_weights]:
            if name not in targets:
                there = ", ".join(targets) or "none"
                raise ConfigError(
                    f'objective supervised: "{name}" is no target; targets: {there}{did_you_mean(name, targets)}'
                )
        chosen = {name: target for name, target in targets.items() if self.targets is None or name in self.targets}
        if not chosen:
            raise ConfigError("objective supervised: there is no target; name data.targets (`--target price`)")
        for name, weights in self.class_weights.items():
            _check_weights(name, targets[name], len(weights))
        return Supervised(self, chosen)


def target_loss(
    target: Target,
    prediction: Tensor,
    labels: Tensor,
    known: Tensor,
    class_weights: Tensor | None = None,
    huber: float | None = None,
) -> Tensor:
    """Mean loss over known labels, (); 0 without any, and what stands at unknown ones has no effect.

    binary, multilabel: binary cross-entropy, in nats. multiclass, tokens: cross-entropy. regression: squared error, or
    Huber's loss. ordinal: sum over the C - 1 thresholds of the binary cross-entropy of "is it above?" (Niu et al. 2016,
    CVPR, "Ordinal Regression With Multiple Output CNN"). soft: binary cross-entropy summed over the answers, which is
    the mean times C of ViLBERT and LXMERT.

    Args:
        prediction: as the head gives it: (B, C), for tokens (B, L, C).
        labels: as `features.Target` says.
        known: bool, of the shape of `labels`, or (B,).
        class_weights: (C,), by which each row's loss is multiplied; the mean is by weight. For multilabel and binary
            it is the weight of 1 in place of 0: (C,) and (2,), negative and positive.
    """
    if not known.any():
        return prediction.flatten()[:0].sum().float()  # 0, with a graph: a step may know no label at all
    prediction = prediction.float()
    match target.task:
        case "binary":
            found, truth = prediction[:, 0][known], labels[known].float()
            weight = None if class_weights is None else class_weights[truth.long()]
            losses = binary_cross_entropy_with_logits(found, truth, weight, reduction="sum")
            return losses / (len(truth) if weight is None else weight.sum())
        case "multiclass" | "tokens":
            return cross_entropy(prediction[known], labels[known], class_weights)
        case "multilabel":
            known = _each(known, labels)
            weight = None if class_weights is None else class_weights.expand_as(labels)[known]
            return binary_cross_entropy_with_logits(prediction[known], labels[known].float(), pos_weight=weight)
        case "regression":
            found, truth = prediction[:, 0][known], labels[known].float()
            return mse_loss(found, truth) if huber is None else huber_loss(found, truth, delta=huber)
        case "ordinal":
            return _ordinal_loss(prediction[known], labels[known], class_weights)
        case "soft":
            known = _each(known, labels)
            losses = binary_cross_entropy_with_logits(prediction[known], labels[known].float(), reduction="sum")
            return losses / known.any(1).sum()


def _ordinal_loss(logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    above = (labels[:, None] > torch.arange(logits.shape[1], device=labels.device)).float()
    losses = binary_cross_entropy_with_logits(logits, above, reduction="none").sum(1)
    if class_weights is None:
        return losses.mean()
    weights = class_weights[labels]
    return (losses * weights).sum() / weights.sum()


def _each(known: Tensor, labels: Tensor) -> Tensor:
    return known if known.shape == labels.shape else known[:, None].expand_as(labels)


def _check_weights(name: str, target: Target, count: int) -> None:
    if target.task in ("regression", "soft"):
        raise ConfigError(f'objective supervised: class_weights of "{name}": a {target.task} target has no classes')
    if count != len(target.classes):
        raise ConfigError(
            f'objective supervised: class_weights of "{name}" must be {len(target.classes)} numbers '
            f"({', '.join(target.classes)}), got {count}"
        )


class Supervised(JointObjective):
    """The log has each target's loss, and as `supervised` their plain sum, which may be watched for the best step."""

    def __init__(self, config: SupervisedConfig, targets: dict[str, Target]) -> None:
        super().__init__()
        self.config = config
        self.weight = config.weight
        self.targets = targets
        self.balance = config.balance.build(tuple(targets))

    def heads(self, config: MultimodalConfig, features: Features) -> dict[str, PretrainingHeadConfig]:
        """None; but it looks whether the model's heads fit the targets.

        Raises:
            ConfigError: a target has no head, or its head has another number of outputs.
        """
        for name, target in self.targets.items():
            head = config.heads.targets.get(name)
            if head is None:
                there = ", ".join(config.heads.targets) or "none"
                raise ConfigError(f'objective supervised: target "{name}" has no head; the model has heads: {there}')
            if head.outputs != target.outputs:
                raise ConfigError(
                    f'objective supervised: head "{name}" must have {target.outputs} outputs for its {target.task} '
                    f"target, got {head.outputs}"
                )
            if (head.kind == "token_linear") != (target.task == "tokens"):
                raise ConfigError(
                    f'objective supervised: target "{name}" is of task {target.task}, which a head of kind '
                    f"{head.kind} does not fit: token_linear is for tokens and for nothing else"
                )
        return {}

    def step(self, step: JointStep) -> StepResult:
        losses = {name: self._loss(name, step) for name in self.targets if name in step.batch.targets}
        seen = {name: loss for name, loss in losses.items() if bool(step.batch.known[name].any())}
        tie = step.model.heads.tie()
        shown = {f"{name}_loss": loss.detach() for name, loss in losses.items()}
        shown["supervised"] = torch.stack([*seen.values(), torch.zeros_like(tie)]).detach().sum()
        if seen:
            loss, more = self.balance(seen, partial(shared_weights, step.model))
            return StepResult(loss + tie, shown | more)
        return StepResult(sum(losses.values(), tie), shown)

    def _loss(self, name: str, step: JointStep) -> Tensor:
        weights = self.config.class_weights.get(name)
        labels = step.batch.targets[name]
        return target_loss(
            self.targets[name],
            step.clean.predictions[name],
            labels,
            step.batch.known[name],
            None if weights is None else torch.tensor(weights, device=labels.device),
            self.config.huber,
        )


def shared_weights(model: Multimodal) -> Iterator[Tensor]:
    """Matrices that learn and that targets may share, from output to input."""
    weights = [*model.encoders.parameters(), *model.fusion.parameters()]
    return (weight for weight in reversed(weights) if weight.ndim > 1 and weight.requires_grad)
