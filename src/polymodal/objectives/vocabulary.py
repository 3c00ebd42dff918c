"""What masking needs to know of a tokenizer: its mask, its special ids, and where words begin.

Shapes: V ids.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.text import Tokenizer

MASKS = ("[MASK]", "<mask>", "<|mask|>")
END_OF_WORD = "</w>"  # CLIP's pieces say where a word ends, not where it begins


class Vocabulary(NamedTuple):
    mask: int
    special: Tensor  # (V,) bool: never masked, never put in the place of another
    continues: Tensor  # (V,) bool: a piece that goes on with the word before it
    ends: Tensor  # (V,) bool: whatever comes next begins a word


def vocabulary(tokenizer: Tokenizer, size: int | None = None) -> Vocabulary:
    """
    Args:
        size: V, at least the tokenizer's: rows of a model's table, of which those without a piece count as special.

    Raises:
        ConfigError: the tokenizer has no mask.
    """
    backend = tokenizer.backend
    mask = next((number for name in MASKS if (number := backend.token_to_id(name)) is not None), None)
    if mask is None:
        raise ConfigError(
            f"objective masked_text: the tokenizer has none of {', '.join(MASKS)}; learn a tokenizer from your own "
            "texts, or start from a model that was trained with masks (BERT)"
        )
    size = max(size or 0, tokenizer.vocab_size)
    special = torch.ones(size, dtype=torch.bool)
    continues, ends = torch.zeros(size, dtype=torch.bool), torch.ones(size, dtype=torch.bool)
    added = {number for number, token in backend.get_added_tokens_decoder().items() if token.special}
    pieces = {number: piece for piece, number in backend.get_vocab().items()}
    starts = _mark(list(pieces.values()))
    for number, piece in pieces.items():
        if number in added or number == tokenizer.pad_id:
            continue
        special[number] = False
        continues[number] = _continues(piece, starts)
        ends[number] = starts == END_OF_WORD and piece.endswith(END_OF_WORD)
    return Vocabulary(mask, special, continues, ends)


def _mark(pieces: list[str]) -> str:
    """How this vocabulary tells words apart: "##" in front of what goes on, else what a word begins or ends with."""
    counts = {
        "##": sum(piece.startswith("##") for piece in pieces),
        "Ġ": sum(piece.startswith("Ġ") for piece in pieces),
        "▁": sum(piece.startswith("▁") for piece in pieces),
        END_OF_WORD: sum(piece.endswith(END_OF_WORD) for piece in pieces),
    }
    return max(counts, key=counts.__getitem__)


def _continues(piece: str, mark: str) -> bool:
    if mark == "##":
        return piece.startswith("##")
    # Chinese has no spaces: a run of pieces without a mark is not one word, each character begins one.
    first = _first_byte(piece, byte_level=mark in ("Ġ", END_OF_WORD))
    return not (piece.startswith(mark) or 0xE3 <= first <= 0xE9)


def _first_byte(piece: str, byte_level: bool) -> int:
    """Of the piece in UTF-8; 0xE3 to 0xE9 begin the characters of Chinese and Japanese."""
    if byte_level:
        return _BYTES.get(piece[:1], 0)
    if len(piece) == 6 and piece.startswith("<0x"):  # byte fallback, as "<0xE4>"
        return int(piece[3:5], 16)
    return piece.encode("utf-8")[0] if piece else 0


def _byte_alphabet() -> dict[str, int]:
    """Bytes by the character that stands for them in byte-level vocabularies: openai/gpt-2 encoder.py."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(moved)}


_BYTES = _byte_alphabet()
