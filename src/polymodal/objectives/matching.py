"""Matching and contrast of two inputs: do these two belong together?

Source: Li et al. 2021, arXiv:2107.07651 (ALBEF), sections 3.2: contrast before the fusion, matching after it, with
negatives from the batch that are drawn the more often the more alike the contrast finds them; or, as in ViLBERT
(arXiv:1908.02265, code jiasenlu/vilbert_beta) and LXMERT (arXiv:1908.07490), half of the texts swapped in the very
batch in which words and regions are masked, so that one pass of the model serves all. 1 says that a pair belongs
together, as LXMERT has it and ALBEF; in ViLBERT's files 0 does.
Shapes: B rows; N pairs that do not belong together.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from polymodal.config import Config
from polymodal.errors import ConfigError, did_you_mean
from polymodal.features import Features
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import (
    ContrastiveHead,
    ContrastiveHeadConfig,
    MatchingHeadConfig,
    PretrainingHeadConfig,
)
from polymodal.objectives.contrastive import info_nce
from polymodal.objectives.joint_step import JointObjective, JointStep, Known
from polymodal.types import Fused, StepResult, Tokens


class _TwoInputs(Config):
    weight: float = Field(1.0, gt=0)
    first: str = "image"
    second: str = "text"

    def check(self, kind: str, features: Features) -> None:
        for name in (self.first, self.second):
            if name not in features.inputs:
                known = features.inputs
                raise ConfigError(
                    f'objective {kind}: "{name}" is no input; inputs: {", ".join(known)}{did_you_mean(name, known)}'
                )
        if self.first == self.second:
            raise ConfigError(f'objective {kind}: first and second must be two inputs, got "{self.first}" twice')


class MatchingConfig(_TwoInputs):
    kind: Literal["matching"] = "matching"
    head: str = "matching"  # its name in `model.pretraining`, and of the loss in logs
    contrast: str = "contrastive"  # the head whose likeness chooses negatives; without it all are as likely
    # Which input is swapped for another row's, of every row in passes of its own; "swap": the second input of half of
    # the rows, any other row's alike, in the pass of the masked objectives.
    negatives: Literal["both", "first", "second", "swap"] = "both"

    def build(self, known: Known) -> "Matching":
        self.check(self.kind, known.features)
        return Matching(self)


class JointContrastiveConfig(_TwoInputs):
    kind: Literal["contrastive"] = "contrastive"
    head: str = "contrastive"  # its name in `model.pretraining`, and of the loss in logs
    width: int = Field(256, ge=1)  # of the shared space
    temperature: float = Field(0.07, ge=0.001, le=10)  # at the start of training

    def build(self, known: Known) -> "JointContrastive":
        self.check(self.kind, known.features)
        return JointContrastive(self)


def draw_negatives(likeness: Tensor, allowed: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows that have a negative (N,), and the column that was drawn for each (N,), by softmax of likeness.

    Args:
        likeness: (B, B), any finite numbers, of each row with each column.
        allowed: (B, B) bool, the columns that are negatives.
    """
    asking = allowed.any(1).nonzero().flatten()
    odds = likeness.float().masked_fill(~allowed, -torch.inf)[asking].softmax(1)
    drawn = torch.multinomial(odds.to(draw.device), 1, generator=draw).flatten() if len(asking) else asking
    return asking, drawn.to(asking.device)


class Matching(JointObjective):
    def __init__(self, config: MatchingConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = config.weight
        self.swaps = config.negatives == "swap"

    def heads(self, config: MultimodalConfig, features: Features) -> dict[str, PretrainingHeadConfig]:
        return {self.config.head: MatchingHeadConfig()}

    def hide(self, step: JointStep) -> Tensor | None:
        """(B,) bool, whose second input is another row's; None where nothing is swapped here."""
        if not self.swaps or not {self.config.first, self.config.second} <= step.batch.inputs.keys():
            return None
        both = step.batch.present[self.config.first] & step.batch.present[self.config.second]
        allowed = self._allowed(step, both) & (step.uniform(len(both)) < 0.5)[:, None]
        rows, others = draw_negatives(torch.zeros(allowed.shape, device=allowed.device), allowed, step.draw)
        order = torch.arange(len(both), device=both.device)
        order[rows] = others
        step.swap(self.config.second, order)
        return allowed.any(1)

    def step(self, step: JointStep) -> StepResult:
        if not self.swaps:
            return self._loss(step, *self._apart(step))
        swapped, present = step.prepare(self), step.masked.present
        both = present[self.config.first] & present[self.config.second]
        belong = both if swapped is None else both & ~swapped
        return self._loss(step, step.masked.fused.pooled[both], belong[both])

    def _apart(self, step: JointStep) -> tuple[Tensor, Tensor]:
        """Joint states (N, W) of pairs in passes of their own, and which of them belong together (N,)."""
        present = step.encoded.present
        both = present[self.config.first] & present[self.config.second]
        firsts, seconds, others = self.negatives(step, both)
        states = [step.fused.pooled[both]]
        if len(firsts):
            states.append(self._swapped(step, firsts, seconds, others).pooled)
        joined = torch.cat(states)
        return joined, torch.arange(len(joined), device=joined.device) < len(states[0])

    def _loss(self, step: JointStep, states: Tensor, belong: Tensor) -> StepResult:
        name = self.config.head
        logits, labels = step.model.pretraining[name](states).float(), belong.long()
        loss = _matching_loss(logits, labels)
        said = logits.argmax(1) if logits.shape[1] == 2 else (logits[:, 0] > 0).long()
        right = (said == labels).float().sum() / max(1, len(labels))
        return StepResult(loss, {name: loss.detach(), f"{name}_accuracy": right})

    def negatives(self, step: JointStep, both: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (N,) of the first input, of the second and of all others, that do not belong together."""
        if int(both.sum()) < 2:
            return (both.nonzero().flatten()[:0],) * 3
        itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
        same = step.same(self.config.first, self.config.second)
        allowed = both[:, None] & both & ~(itself if same is None else same)
        likeness = self._likeness(step, allowed)
        found = []
        if self.config.negatives != "first":
            row, other = draw_negatives(likeness, allowed, step.draw)
            found.append((row, other, row))
        if self.config.negatives != "second":
            row, other = draw_negatives(likeness.T, allowed.T, step.draw)
            found.append((other, row, row))
        firsts, seconds, others = (torch.cat(rows) for rows in zip(*found, strict=True))
        return firsts, seconds, others

    def _allowed(self, step: JointStep, both: Tensor) -> Tensor:
        """(B, B) bool, which second input does not belong to which first one."""
        itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
        same = step.same(self.config.first, self.config.second)
        return both[:, None] & both & ~(itself if same is None else same | itself)

    @torch.no_grad()
    def _likeness(self, step: JointStep, allowed: Tensor) -> Tensor:
        """(B, B) of each first input with each second one."""
        head = dict(step.model.pretraining.items()).get(self.config.contrast)
        if isinstance(head, ContrastiveHead) and (head.config.first, head.config.second) == (
            self.config.first,
            self.config.second,
        ):
            first, second, scale = head(step.encoded.tokens)
            likeness: Tensor = scale * first @ second.T
            return likeness
        return torch.zeros(allowed.shape, device=allowed.device)

    def _swapped(self, step: JointStep, firsts: Tensor, seconds: Tensor, others: Tensor) -> Fused:
        """The joint state of rows that are put together anew; the encoders are not run again."""
        rows = {self.config.first: firsts, self.config.second: seconds}
        tokens, present = step.encoded
        return step.model.fuse(
            {name: Tokens(*(part[rows.get(name, others)] for part in given)) for name, given in tokens.items()},
            {name: there[rows.get(name, others)] for name, there in present.items()},
        )


def _matching_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits (N, 1 or 2); 0 where there are none."""
    if logits.shape[1] == 2:
        return cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))
    return binary_cross_entropy_with_logits(logits[:, 0], labels.float(), reduction="sum") / max(1, len(labels))


class JointContrastive(JointObjective):
    """CLIP's loss on what the encoders say, before the fusion."""

    def __init__(self, config: JointContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = config.weight

    def heads(self, config: MultimodalConfig, features: Features) -> dict[str, PretrainingHeadConfig]:
        settings = self.config.model_dump(include={"first", "second", "width", "temperature"})
        return {self.config.head: ContrastiveHeadConfig(**settings)}

    def step(self, step: JointStep) -> StepResult:
        name, head = self.config.head, step.model.pretraining[self.config.head]
        assert isinstance(head, ContrastiveHead)
        present = step.encoded.present
        both = present[self.config.first] & present[self.config.second]
        if not both.any():
            loss = head.log_scale.flatten()[:0].sum()  # 0: no pair in this batch
            return StepResult(loss, {name: loss.detach()})
        first, second, scale = head(step.encoded.tokens)
        same = step.same(self.config.first, self.config.second)
        same = None if same is None else same[both][:, both]
        loss = info_nce(first[both], second[both], scale, same)
        nearest = (first[both] @ second[both].T).argmax(1)
        right = nearest == torch.arange(len(nearest), device=nearest.device)
        return StepResult(
            loss, {name: loss.detach(), f"{name}_accuracy": right.float().mean(), f"{name}_scale": scale.detach()}
        )
