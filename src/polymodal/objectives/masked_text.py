"""Masked text: pieces are hidden, and found again from the rest of the text and from the other inputs.

Source: Devlin et al. 2019, arXiv:1810.04805, section 3.1. Each piece is predicted where it stood; nothing is shifted.
Shapes: B texts; L tokens; V ids; M masked places; W width.
"""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from polymodal.config import Config
from polymodal.errors import ConfigError
from polymodal.features import Features
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import MaskedTextHeadConfig, PretrainingHeadConfig
from polymodal.objectives.joint_step import JointObjective, JointStep, Known
from polymodal.objectives.vocabulary import Vocabulary, vocabulary
from polymodal.types import StepResult, Text


class MaskedTextConfig(Config):
    kind: Literal["masked_text"] = "masked_text"
    weight: float = Field(1.0, gt=0)
    input: str = "text"
    head: str = "masked_text"  # its name in `model.pretraining`, and of the loss in logs
    rate: float = Field(0.15, gt=0, lt=1)  # of pieces, or of words
    whole_words: bool = False  # all pieces of a word or none: Chinese-BERT and later BERTs

    def build(self, known: Known) -> "MaskedText":
        tokenizer = known.tokenizers.get(self.input)
        if tokenizer is None:
            there = ", ".join(known.tokenizers) or "none"
            raise ConfigError(f'objective masked_text: "{self.input}" is no text input; text inputs: {there}')
        return MaskedText(self, vocabulary(tokenizer))


class Hidden(NamedTuple):
    ids: Tensor  # (B, L), with masks in them
    places: Tensor  # (B, L) bool, what is to be predicted


def hide_text(text: Text, words: Vocabulary, rate: float, whole_words: bool, chosen: Tensor, fate: Tensor) -> Hidden:
    """Of the chosen pieces 80 % become the mask, 10 % another piece, 10 % stay.

    Args:
        rate: share of pieces, or of words, that is chosen; special ones never are.
        chosen: (B, L) in [0, 1), decides what is chosen: a place, or by the number at its first piece a word.
        fate: (2, B, L) in [0, 1), decides what becomes of it, and which other piece it is.
    """
    if whole_words:
        chosen = chosen.gather(1, word_starts(text.ids, words))
    places = (chosen < rate) & text.mask & ~words.special[text.ids]
    ordinary = (~words.special).nonzero().flatten()
    other = ordinary[(fate[1] * len(ordinary)).long().clamp(max=len(ordinary) - 1)]
    ids = torch.where(places & (fate[0] < 0.8), words.mask, text.ids)
    return Hidden(torch.where(places & (fate[0] >= 0.8) & (fate[0] < 0.9), other, ids), places)


def word_starts(ids: Tensor, words: Vocabulary) -> Tensor:
    """(B, L) int64: for each place, where the word begins to which it belongs."""
    begins = ~words.continues[ids]
    begins[:, 0] = True
    begins[:, 1:] |= words.ends[ids[:, :-1]]
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return torch.where(begins, place, 0).cummax(1).values


def masked_text_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits (M, V) for ids (M,); 0 where nothing was masked."""
    return cross_entropy(logits.float(), ids, reduction="sum") / max(1, len(ids))


class MaskedText(JointObjective):
    special: Tensor
    continues: Tensor
    ends: Tensor

    def __init__(self, config: MaskedTextConfig, words: Vocabulary) -> None:
        super().__init__()
        self.config = config
        self.weight = config.weight
        self.mask = words.mask
        for name in ("special", "continues", "ends"):
            self.register_buffer(name, getattr(words, name), persistent=False)

    def heads(self, config: MultimodalConfig, features: Features) -> dict[str, PretrainingHeadConfig]:
        return {self.config.head: MaskedTextHeadConfig(input=self.config.input)}

    def hide(self, step: JointStep) -> Tensor | None:
        text = step.hidden.get(self.config.input)
        if not isinstance(text, Text):
            return None  # a batch may lack an input altogether
        words = Vocabulary(self.mask, self.special, self.continues, self.ends)
        draws = step.uniform(3, *text.ids.shape)
        ids, places = hide_text(text, words, self.config.rate, self.config.whole_words, draws[0], draws[1:])
        places &= step.paired.present[self.config.input][:, None]
        step.hidden[self.config.input] = Text(torch.where(places, ids, text.ids), text.mask)
        return places

    def step(self, step: JointStep) -> StepResult:
        places = step.prepare(self)
        states = step.masked.fused.tokens[self.config.input].sequence
        if places is None:
            ids, read = torch.zeros(0, dtype=torch.int64, device=states.device), states[:0, 0]
        else:
            places = places & step.masked.present[self.config.input][:, None]
            given = step.paired.inputs[self.config.input]
            assert isinstance(given, Text)
            ids, read = given.ids[places], states[places]
        logits = step.model.pretraining[self.config.head](read)
        loss = masked_text_loss(logits, ids)
        right = (logits.argmax(1) == ids).float().sum() / max(1, len(ids))
        return StepResult(loss, {self.config.head: loss.detach(), f"{self.config.head}_accuracy": right})
