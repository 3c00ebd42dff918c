"""A tokenizer learned from your own captions, and a known one taught more characters.

Chinese needs two things that defaults do not give: characters split from their neighbors (there are no spaces, and a
sentence taken as one word would be learned whole), and no text without an id (byte fallback).
"""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

from polymodal.errors import ConfigError, DataError
from polymodal.text.tokenizer import Tokenizer, with_bert_rules

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = [PAD, UNKNOWN, START, END, "[MASK]"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]  # the names that byte fallback looks for
HAN = r"\p{Han}+|[\p{Hiragana}\p{Katakana}]+"  # runs written without spaces

Kind = Literal["bpe", "unigram", "wordpiece", "character"]


def train_tokenizer(
    texts: Iterable[str], kind: Kind = "bpe", vocab_size: int = 8192, lowercase: bool = True, min_frequency: int = 2
) -> Tokenizer:
    """A tokenizer for texts like these.

    `[PAD]` is id 0 and every text is put between `[CLS]` and `[SEP]`. The same texts give the same tokenizer, except
    for unigram: the library's training of it is not repeatable to the last piece.

    Args:
        texts: read once, as a stream.
        kind: bpe: bytes, any text survives encode and decode; unigram: likelier pieces, bytes as the fallback;
            wordpiece: BERT's rules, each Chinese character a word of its own, unknown ones become [UNK];
            character: every character (code point) is a token, the space too, unknown ones become [UNK].
        vocab_size: at most so many ids, special ones included; a small corpus gives fewer.
        min_frequency: pieces seen less often are not learned (bpe, wordpiece, character).

    Raises:
        ConfigError: `vocab_size` has no room for the special tokens and the alphabet.
        DataError: there is no text.
    """
    least = 512 if kind in ("bpe", "unigram") else 64  # special tokens, 256 bytes, and some pieces
    if vocab_size < least:
        raise ConfigError(f"tokenizer: vocab_size must be at least {least} for {kind}, got {vocab_size}")
    seen = _Counted(texts)
    match kind:
        case "bpe":
            backend = _bpe(seen, vocab_size, lowercase, min_frequency)
        case "unigram":
            backend = _unigram(seen, vocab_size, lowercase)
        case "wordpiece":
            backend = _trained_wordpiece(seen, vocab_size, lowercase, min_frequency)
        case "character":
            backend = _character(seen, vocab_size, lowercase, min_frequency)
    if seen.count == 0:
        raise DataError("tokenizer: wanted texts to learn from, got none")
    if kind != "wordpiece":
        backend.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}",
            special_tokens=[(START, backend.token_to_id(START)), (END, backend.token_to_id(END))],
        )
    return Tokenizer(backend, PAD)


class _Counted:
    """The texts with something in them, counted while they pass."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = texts
        self.count = 0

    def __iter__(self) -> Any:
        for text in self.texts:
            if text.strip():
                self.count += 1
                yield text


def _normalizer(lowercase: bool) -> normalizers.Normalizer:
    # NFKC makes full-width letters and digits, common in Chinese text, equal to the plain ones.
    steps: list[normalizers.Normalizer] = [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " ")]
    if lowercase:
        steps.append(normalizers.Lowercase())
    return normalizers.Sequence([*steps, normalizers.Strip()])


def _bpe(texts: Iterable[str], vocab_size: int, lowercase: bool, min_frequency: int) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = _normalizer(lowercase)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(HAN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            max_token_length=24,  # bytes: eight Chinese characters; no whole sentence becomes a piece
            show_progress=False,
        ),
    )
    return backend


def _unigram(texts: Iterable[str], vocab_size: int, lowercase: bool) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = _normalizer(lowercase)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            pre_tokenizers.Split(tokenizers.Regex(rf"{HAN}|[^\p{{L}}\p{{M}}\p{{N}}▁]"), behavior="isolated"),
        ]
    )
    backend.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=vocab_size - len(BYTES),
            special_tokens=SPECIAL,
            unk_token=UNKNOWN,
            max_piece_length=8,
            show_progress=False,
        ),
    )
    learned = json.loads(backend.to_str())["model"]["vocab"][len(SPECIAL) :]
    pieces = sorted((piece, score) for piece, score in learned)  # the trainer's own order changes from run to run
    # Bytes lie below every learned piece, so that they are taken only where no piece fits.
    floor = min((score for _, score in pieces), default=0.0) - 10
    vocab = [*((name, 0.0) for name in SPECIAL), *pieces, *((name, floor) for name in BYTES)]
    backend.model = models.Unigram(vocab, unk_id=SPECIAL.index(UNKNOWN), byte_fallback=True)
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)]
    )
    return backend


def _trained_wordpiece(
    texts: Iterable[str], vocab_size: int, lowercase: bool, min_frequency: int
) -> tokenizers.Tokenizer:
    rules = with_bert_rules(
        tokenizers.Tokenizer(models.WordPiece(vocab={name: number for number, name in enumerate(SPECIAL)})), lowercase
    )
    words = Counter(word for text in texts for word in _words(rules, text))
    # Letters get their ids in a fixed order, as special tokens do: the trainer's own order changes from run to run.
    letters = sorted({letter for word in words for letter in word[:1]})
    letters += sorted({f"##{letter}" for word in words for letter in word[1:]})
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.train_from_iterator(
        (" ".join([word] * min(count, 1000)) for word, count in words.items()),
        trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=[*SPECIAL, *letters[: vocab_size - len(SPECIAL)]],
            show_progress=False,
        ),
    )
    vocab = backend.get_vocab(with_added_tokens=False)
    return with_bert_rules(tokenizers.Tokenizer(models.WordPiece(vocab=vocab, unk_token=UNKNOWN)), lowercase)


def _character(texts: Iterable[str], vocab_size: int, lowercase: bool, min_frequency: int) -> tokenizers.Tokenizer:
    normalizer = _normalizer(lowercase)
    counts = Counter(character for text in texts for character in normalizer.normalize_str(text))
    frequent = [character for character, count in counts.items() if count >= min_frequency]
    frequent.sort(key=lambda character: (-counts[character], character))
    known = [*SPECIAL, *frequent[: vocab_size - len(SPECIAL)]]
    vocab = {name: number for number, name in enumerate(known)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("."), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(SPECIAL)
    return backend


def _words(rules: tokenizers.Tokenizer, text: str) -> list[str]:
    normal = rules.normalizer.normalize_str(text)
    return [word for word, _ in rules.pre_tokenizer.pre_tokenize_str(normal)]


def extend_vocabulary(
    tokenizer: Tokenizer, texts: Iterable[str], most: int = 8000, start: int | None = None
) -> Tokenizer:
    """`tokenizer` with the Chinese characters of `texts` that it does not know, as ids after its last.

    For WordPiece vocabularies, where an unknown character is `[UNK]`. No old id changes, so trained rows of an
    embedding keep their meaning; `grow_embedding` adds the new rows.

    Args:
        most: at most so many new characters, the most frequent ones.
        start: id of the first one, for an embedding with more rows than the tokenizer has ids; None: after its last.

    Raises:
        ConfigError: the tokenizer is not a WordPiece, or `start` is one of its ids.
    """
    if not isinstance(tokenizer.backend.model, models.WordPiece):
        kind = type(tokenizer.backend.model).__name__
        raise ConfigError(f"extend_vocabulary: wanted a WordPiece tokenizer, got {kind}; train a new one instead")
    start = tokenizer.vocab_size if start is None else start
    if start < tokenizer.vocab_size:
        raise ConfigError(f"extend_vocabulary: start must be at least {tokenizer.vocab_size}, got {start}")
    known = tokenizer.backend.get_vocab(with_added_tokens=True)
    counts: dict[str, int] = {}
    for text in texts:
        for character in text:
            if is_chinese(character) and character not in known:
                counts[character] = counts.get(character, 0) + 1
    new = sorted(counts, key=lambda character: (-counts[character], character))[:most]
    state = json.loads(tokenizer.backend.to_str())
    state["model"]["vocab"].update({character: start + place for place, character in enumerate(new)})
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state)))


def is_chinese(character: str) -> bool:
    """In a block of Han characters, as BERT's cleaning counts them (google-research/bert, tokenization.py)."""
    code = ord(character)
    return any(
        first <= code <= last
        for first, last in (
            (0x4E00, 0x9FFF),
            (0x3400, 0x4DBF),
            (0x20000, 0x2A6DF),
            (0x2A700, 0x2CEAF),
            (0xF900, 0xFAFF),
            (0x2F800, 0x2FA1F),
        )
    )


@torch.no_grad()
def grow_embedding(embedding: nn.Embedding, vocab_size: int) -> nn.Embedding:
    """An embedding of `vocab_size` rows whose first rows are the given ones.

    New rows are drawn around the mean of the old ones with a tenth of their spread: near what the model knows, yet told
    apart.

    Raises:
        ConfigError: `vocab_size` is less than the rows there are.
    """
    rows, width = embedding.weight.shape
    if vocab_size < rows:
        raise ConfigError(f"grow_embedding: wanted at least the {rows} rows there are, got {vocab_size}")
    grown = nn.Embedding(vocab_size, width, device=embedding.weight.device, dtype=embedding.weight.dtype)
    mean, spread = embedding.weight.mean(0), embedding.weight.std(0)
    grown.weight[:rows] = embedding.weight
    grown.weight[rows:] = mean + 0.1 * spread * torch.randn_like(grown.weight[rows:])
    return grown
