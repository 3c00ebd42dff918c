"""A text tower of one language taught another by imitation, on parallel texts.

The taught tower gives a target text the vector that the tower as it is gives the source text (Reimers & Gurevych 2020,
arXiv:2004.09813; there a whole student learns, here only embeddings of new tokens do, as in the transfer of Artetxe et
al. 2020, arXiv:1910.11856, section 2.2). Every old weight stays bit by bit, so no answer in the old language changes.

Shapes: P pairs; S different source texts; B pairs of a batch; L tokens; N new characters; D width.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from tokenizers import models
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, embedding, normalize

from polymodal.data.progress import with_progress
from polymodal.encoders.bert import Bert
from polymodal.errors import ConfigError, DataError
from polymodal.metrics.retrieval import ranks, recall_at
from polymodal.preprocess import TextPreprocess
from polymodal.text import Tokenizer, extend_vocabulary
from polymodal.types import Text

SCALE = 20.0  # of cosines before the softmax over source texts, as sentence-transformers' MultipleNegativesRankingLoss
PULL = 5.0  # weight of 1 - cosine beside it
WARMUP_STEPS = 10
AT_ONCE = 256  # texts of a forward pass without gradients


class Agreement(NamedTuple):
    """How near target texts come to their source texts."""

    top1: float  # share of target texts, 0 to 1, to which their own source text is the nearest of all S
    cosine: float  # mean over pairs, -1 to 1


class Taught(NamedTuple):
    encoder: Bert  # a new one; the tower that was given is as it was
    tokenizer: Tokenizer
    characters: int  # N, how many were new
    unread: int  # target texts of which a part is unknown still, as of a script other than Chinese
    before: Agreement  # of the tower as it was given
    after: Agreement


def teach_language(
    encoder: nn.Module,
    tokenizer: Tokenizer,
    preprocess: TextPreprocess,
    pairs: Sequence[tuple[str, str]],
    hints: Sequence[tuple[str, str]] = (),
    *,
    epochs: int = 8,
    batch_size: int = 64,
    lr: float = 2e-2,
    seed: int = 0,
    progress: bool = True,
) -> Taught:
    """A tower that reads the Chinese characters of the targets too.

    Characters that the WordPiece vocabulary does not know become new ids, and only their rows of the word embedding
    learn. A seed repeats the result exactly on one machine with one number of threads.

    Args:
        encoder: a `Bert`, as `published.load` gives it.
        pairs: (source text, target text) that mean the same; best a few thousand, as each step compares a batch with
            all S source texts.
        hints: looser pairs, such as keywords. They are not imitated, and only help to find where new rows start.
        lr: of AdamW at its height, after a warm-up of 10 steps; it falls to zero along a cosine.

    Raises:
        ConfigError: the encoder is no `Bert`, the tokenizer no WordPiece or not the encoder's, or a number is out of
            range.
        DataError: there are no pairs, a text is empty, or the targets hold no character that is new.
    """
    _check(pairs, hints, epochs, batch_size, lr)
    if not isinstance(encoder, Bert):
        raise ConfigError(f"teach_language: wanted a Bert as the encoder, got {type(encoder).__name__}")
    tower = copy.deepcopy(encoder).requires_grad_(False).eval()
    old = tower.embedding.weight
    extended = _extended(tokenizer, [target for _, target in (*pairs, *hints)], len(old))

    sources = list(dict.fromkeys(source for source, _ in pairs))
    targets = [target for _, target in pairs]
    place = {source: row for row, source in enumerate(sources)}
    own = torch.tensor([place[source] for source, _ in pairs], device=old.device)
    goals = _vectors(tower, tokenizer, preprocess, sources)  # (S, D)
    before = _agreement(_vectors(tower, tokenizer, preprocess, targets), goals, own)

    rows = _start_rows(tokenizer, extended, old, pairs, hints)
    table = _TwoTables(old, rows)
    tower.embedding = table  # type: ignore[assignment]  # until it is one table again
    texts = _ids(extended, preprocess, targets)
    _imitate(tower, table.new, texts, goals, own, (epochs, batch_size, lr, seed), progress)
    after = _agreement(_vectors(tower, extended, preprocess, targets), goals, own)

    grown = torch.cat([old, table.new.detach()])
    tower.embedding = nn.Embedding.from_pretrained(grown, freeze=False)
    tower.config = encoder.config.model_copy(update={"vocab_size": len(grown)})
    unknown = extended.backend.token_to_id(extended.backend.model.unk_token)
    unread = sum(unknown in row for row in texts)
    return Taught(tower.requires_grad_(True), extended, len(rows), unread, before, after)
