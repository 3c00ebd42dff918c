"""Texts to ids and back, by the `tokenizers` library; everything that it needs is in one tokenizer.json.

Shapes: B texts; L tokens, the longest text of the batch.
"""

import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from polymodal.errors import ArtifactError, DataError
from polymodal.preprocess import TextPreprocess
from polymodal.types import Text

PAD_NAMES = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>", "</s>")  # looked for in this order when no file names one
# openai/CLIP clip/simple_tokenizer.py: specials, English endings, runs of letters, single digits, runs of the rest
CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

# Truncation and padding are a state of the backend, so it is set and used by one thread at a time. One lock for all
# tokenizers, because a tokenizer is sent to worker processes and a lock of its own could not be.
_state = threading.Lock()


class Tokenizer:
    """Callable: texts in, `Text` out; from several threads too.

    `backend` is the `tokenizers.Tokenizer` inside. Its padding entry, saved with it, says which id pads.
    """

    def __init__(self, backend: tokenizers.Tokenizer, pad_token: str | None = None) -> None:
        """
        Args:
            pad_token: None: as the backend's padding entry says, else the first of `PAD_NAMES` that it has, else id 0.
        """
        self.backend = backend
        backend.encode_special_tokens = True  # a caption that says "[SEP]" means these letters, not the token
        self.pad_id, self.pad_token = _padding(backend, pad_token)
        self._set(None, None)

    def __call__(self, texts: Sequence[str], preprocess: TextPreprocess) -> Text:
        """Ids and mask, (B, L), padded on the right to the longest of the batch.

        A text longer than `max_length` is cut and keeps its last special token. With `pad_to_max` every row has
        `max_length` tokens and padding counts as text, which is how SigLIP was trained.

        Raises:
            DataError: a text is not a str, or `max_length` leaves no room beside the special tokens.
        """
        if not texts:
            return Text(torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, 1, dtype=torch.bool))
        if isinstance(texts, str):
            raise DataError("tokenizer: wanted a list of texts, got one str; put it into a list")
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(f"tokenizer: text {row} must be a str, got {type(text).__name__}")
        special = self.backend.num_special_tokens_to_add(False)
        if preprocess.max_length < special:
            raise DataError(f"tokenizer: max_length {preprocess.max_length} is less than the {special} special tokens")
        with _state:
            self._set(preprocess.max_length, preprocess.max_length if preprocess.pad_to_max else None)
            rows = self.backend.encode_batch(list(texts))
        ids = torch.tensor([row.ids for row in rows], dtype=torch.int64)
        mask = torch.tensor([row.attention_mask for row in rows], dtype=torch.bool)
        if ids.shape[1] == 0:  # nothing but empty texts and no special tokens: one padding token, masked
            return Text(torch.full((len(rows), 1), self.pad_id), torch.zeros(len(rows), 1, dtype=torch.bool))
        return Text(ids, torch.ones_like(mask) if preprocess.pad_to_max else mask)

    def _set(self, truncation: int | None, length: int | None) -> None:
        current = self.backend.truncation
        if (current["max_length"] if current else None) != truncation:
            if truncation is None:
                self.backend.no_truncation()
            else:
                self.backend.enable_truncation(truncation)
        padding = self.backend.padding
        if padding is None or padding["length"] != length or padding["pad_id"] != self.pad_id:
            self.backend.enable_padding(pad_id=self.pad_id, pad_token=self.pad_token, length=length)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without special tokens, in the tokenizer's normal form."""
        text: str = self.backend.decode([int(number) for number in ids])
        # CLIP's files mark the end of a word but their decoder does not know it.
        suffix = getattr(self.backend.model, "end_of_word_suffix", None)
        return text.replace(suffix, " ").strip() if suffix else text

    @property
    def vocab_size(self) -> int:
        """One more than the largest id: the rows that an embedding needs."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        with _state:
            self._set(None, None)
            content = self.backend.to_str(pretty=False)
        (Path(folder) / "tokenizer.json").write_text(content, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """The tokenizer of a folder: tokenizer.json, else vocab.json + merges.txt (CLIP), else vocab.txt (WordPiece).

        Raises:
            ArtifactError: there is none of them, or the file cannot be read.
        """
        folder = Path(folder)
        try:
            if (folder / "tokenizer.json").is_file():
                backend = tokenizers.Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
                return cls(backend, None if backend.padding else _named_padding(folder))
            if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
                return cls(_clip(folder), _named_padding(folder))
            if (folder / "vocab.txt").is_file():
                return cls(_wordpiece(folder), _named_padding(folder))
        except ArtifactError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError(f"{folder}: the tokenizer cannot be read: {error}") from None
        hint = ""
        if (folder / "spiece.model").is_file():
            hint = "; spiece.model is not read: convert it once with transformers' AutoTokenizer and save_pretrained"
        raise ArtifactError(
            f"{folder}: wanted tokenizer.json, vocab.json with merges.txt, or vocab.txt, got none{hint}"
        )


def _padding(backend: tokenizers.Tokenizer, token: str | None) -> tuple[int, str]:
    if token is not None:
        number = backend.token_to_id(token)
        if number is None:
            raise ArtifactError(f'tokenizer: the padding token "{token}" is not in the vocabulary')
        return number, token
    if backend.padding is not None:
        return backend.padding["pad_id"], backend.padding["pad_token"]
    for name in PAD_NAMES:
        if (number := backend.token_to_id(name)) is not None:
            return number, name
    return 0, backend.id_to_token(0) or ""


def _named_padding(folder: Path) -> str | None:
    """The padding token that a Hugging Face folder names."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _json(folder / file).get("pad_token")
        if token is not None:
            return str(token["content"] if isinstance(token, dict) else token)
    return None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    data = json.loads(path.read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {}


def _clip(folder: Path) -> tokenizers.Tokenizer:
    """CLIP's byte-level BPE, as transformers' CLIPTokenizer builds it (without ftfy's repair of broken text)."""
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [
        (left, right) for left, _, right in (line.partition(" ") for line in lines) if right and left != "#version:"
    ]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    backend.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", vocab["<|endoftext|>"]),
        ("<|startoftext|>", vocab["<|startoftext|>"]),
        trim_offsets=False,
        add_prefix_space=False,
    )
    return backend


def _wordpiece(folder: Path) -> tokenizers.Tokenizer:
    """BERT's WordPiece; lower-casing and the split of Chinese characters as tokenizer_config.json says."""
    settings = _json(folder / "tokenizer_config.json")
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    if lines[-1] == "":
        lines.pop()
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocab={token.rstrip("\r"): number for number, token in enumerate(lines)}, unk_token="[UNK]")
    )
    return with_bert_rules(
        backend,
        lowercase=settings.get("do_lower_case", True),
        split_chinese=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
    )


def with_bert_rules(
    backend: tokenizers.Tokenizer, lowercase: bool, split_chinese: bool = True, strip_accents: bool | None = None
) -> tokenizers.Tokenizer:
    """`backend` with BERT's cleaning, splitting and [CLS] ... [SEP] around every text."""
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    specials = [
        token for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if backend.token_to_id(token) is not None
    ]
    backend.add_special_tokens(specials)
    first, last = backend.token_to_id("[CLS]"), backend.token_to_id("[SEP]")
    if first is None or last is None:
        raise ArtifactError("tokenizer: a WordPiece vocabulary needs [CLS] and [SEP], and has not both")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", first), ("[SEP]", last)]
    )
    return backend
