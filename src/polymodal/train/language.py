"""A text tower of one language taught another by imitation, on parallel texts.

The taught tower gives a target text the vector that the tower as it is gives the source text (Reimers & Gurevych 2020,
arXiv:2004.09813; there a whole student learns, here only embeddings of new tokens do, as in the transfer of Artetxe et
al. 2020, arXiv:1910.11856, section 2.2). Every old weight stays bit by bit, so no answer in the old language changes.

Shapes: P pairs; S different source texts; B pairs of a batch; L tokens; N new characters; D width.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, normalize

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
        ConfigError: the encoder is no `Bert`, the tokenizer no WordPiece or not the encoder's, or a number is not
            positive.
        DataError: there are no pairs, a text is empty, or the targets hold no character that is new.
    """
    _check_numbers(epochs=epochs, batch_size=batch_size, lr=lr)
    if not isinstance(encoder, Bert):
        raise ConfigError(f"teach_language: wanted a Bert as the encoder, got {type(encoder).__name__}")
    _check_texts(tokenizer, pairs, hints)
    tower = copy.deepcopy(encoder).requires_grad_(False).eval()
    old = tower.embedding.weight
    targets = [target for _, target in pairs]
    extended = _extended(tokenizer, [*targets, *(target for _, target in hints)], len(old))

    places = {source: row for row, source in enumerate(dict.fromkeys(source for source, _ in pairs))}
    own = torch.tensor([places[source] for source, _ in pairs], device=old.device)
    goals = _vectors(tower, tokenizer(list(places), preprocess))
    before = _agreement(_vectors(tower, tokenizer(targets, preprocess)), goals, own)

    grown = _Grown(old, _start_rows(old, tokenizer, extended, pairs, hints))
    tower.embedding = grown  # type: ignore[assignment]  # until its rows are merged
    text = extended(targets, preprocess)
    steps = _steps(text, epochs, batch_size, seed)
    _imitate(tower, grown.new, text, goals, own, with_progress(steps, "teaching", len(steps), progress), len(steps), lr)
    after = _agreement(_vectors(tower, text), goals, own)

    tower.embedding = nn.Embedding.from_pretrained(torch.cat([old, grown.new.detach()]))
    tower.config = encoder.config.model_copy(update={"vocab_size": len(tower.embedding.weight)})
    unknown = extended.backend.token_to_id(extended.backend.model.unk_token)
    unread = 0 if unknown is None else int(text.ids.eq(unknown).any(1).sum())
    return Taught(tower.requires_grad_(True), extended, len(grown.new), unread, before, after)


def _check_numbers(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise ConfigError(f"teach_language: {name} must be more than 0, got {value}")


def _check_texts(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], hints: Sequence[tuple[str, str]]) -> None:
    if not pairs:
        raise DataError("teach_language: wanted pairs of a source text and a target text, got none")
    for name, texts in (("pair", pairs), ("hint", hints)):
        for number, pair in enumerate(texts):
            for side, text in zip(("source", "target"), pair, strict=True):
                if not _pieces(tokenizer, text):
                    raise DataError(
                        f"teach_language: the {side} text of {name} {number} is empty; leave the {name} out"
                    )


def _pieces(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of what is written there, without special tokens and padding."""
    found = tokenizer.backend.encode(text, add_special_tokens=False)
    return [number for number, real in zip(found.ids, found.attention_mask, strict=True) if real]


def _extended(tokenizer: Tokenizer, targets: list[str], rows: int) -> Tokenizer:
    """The tokenizer with the targets' new characters as ids behind the embedding's last row."""
    if tokenizer.vocab_size > rows:
        raise ConfigError(
            f"teach_language: the tokenizer has {tokenizer.vocab_size} ids and the encoder rows for {rows}; "
            "take the tokenizer that came with the encoder"
        )
    extended = extend_vocabulary(tokenizer, targets, start=rows)
    if extended.vocab_size == tokenizer.vocab_size:
        raise DataError(
            f"teach_language: the {len(targets)} target texts hold no Chinese character that the vocabulary does not "
            "know, so there is nothing to teach; is each pair (source, target)?"
        )
    return extended


class _Grown(nn.Module):
    """A word embedding of which only the rows behind the old ones learn."""

    def __init__(self, old: Tensor, new: Tensor) -> None:
        super().__init__()
        self.old = old
        self.new = nn.Parameter(new)

    def forward(self, ids: Tensor) -> Tensor:
        # Two look-ups and a choice: joining the tables in every step would copy all old rows, and differentiate them.
        first = len(self.old)
        return torch.where(
            (ids >= first)[..., None],
            embedding((ids - first).clamp(min=0), self.new),
            embedding(ids.clamp(max=first - 1), self.old),
        )


def _start_rows(
    old: Tensor,
    tokenizer: Tokenizer,
    extended: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    hints: Sequence[tuple[str, str]],
) -> Tensor:
    """(N, D): the mean of the source words' rows over all texts that hold the character, pairs counting threefold."""
    sums = old.new_zeros(extended.vocab_size - len(old), old.shape[1])
    weights = old.new_zeros(len(sums), 1)
    for weight, texts in ((3.0, pairs), (1.0, hints)):
        means: dict[str, Tensor] = {}
        for source, target in texts:
            if source not in means:
                words = tokenizer.backend.encode(source, add_special_tokens=False)
                means[source] = old[[i for i, real in zip(words.ids, words.attention_mask, strict=True) if real]].mean(
                    0
                )
            rows = [i - len(old) for i in set(extended.backend.encode(target).ids) if i >= len(old)]
            sums[rows] += weight * means[source]
            weights[rows] += weight
    return sums / weights.clamp(min=1)


def _steps(text: Text, epochs: int, batch_size: int, seed: int) -> list[Tensor]:
    """Row numbers of each batch: texts of about one length together, so that little is padding."""
    lengths, draw = text.mask.sum(1), torch.Generator().manual_seed(seed)
    steps = []
    for _ in range(epochs):
        order = (lengths + torch.rand(len(lengths), generator=draw)).argsort()  # by chance among equal lengths
        batches = order.split(batch_size)
        steps += [batches[i] for i in torch.randperm(len(batches), generator=draw)]
    return steps


def _imitate(
    tower: Bert,
    new: nn.Parameter,
    text: Text,
    goals: Tensor,
    own: Tensor,
    steps: Iterable[Tensor],
    count: int,
    lr: float,
) -> None:
    # A loop of our own: Lightning's checkpoints, loggers and processes have nothing to do for one small table that
    # learns for seconds, and silencing them takes more lines than these.
    optimizer = torch.optim.AdamW([new], lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / count)),
    )
    for rows in steps:
        taught = _forward(tower, text, rows)
        right = own[rows]
        guess = cross_entropy(SCALE * taught @ goals.T, right)
        loss = guess + PULL * (1 - (taught * goals[right]).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _forward(tower: Bert, text: Text, rows: Tensor) -> Tensor:
    """(B, D), unit length, of some rows of the texts, trimmed to the longest of them."""
    length = int(text.mask[rows].sum(1).max())
    part = Text(text.ids[rows, :length], text.mask[rows, :length]).to(str(tower.positions.device))
    return normalize(tower(part).pooled, dim=-1)


@torch.no_grad()
def _vectors(tower: Bert, text: Text) -> Tensor:
    """(T, D), unit length, of all the texts."""
    order = text.mask.sum(1).argsort()
    vectors = torch.cat([_forward(tower, text, rows) for rows in order.split(AT_ONCE)])
    return vectors[order.argsort()]


def _agreement(taught: Tensor, goals: Tensor, own: Tensor) -> Agreement:
    places = [
        ranks(part @ goals.T, right) for part, right in zip(taught.split(AT_ONCE), own.split(AT_ONCE), strict=True)
    ]
    return Agreement(recall_at(1, torch.cat(places)), (taught * goals[own]).sum(1).mean().item())
