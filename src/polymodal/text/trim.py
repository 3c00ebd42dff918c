"""A tokenizer without the tokens that some texts do not need.

These texts become the same pieces as before, under new ids. Other texts still have an encoding, for what words are
spelled with stays (special tokens, bytes, single characters), only in more pieces.

Why the pieces stay the same, when only pieces go that the texts do not use:
- WordPiece takes the longest piece that fits. What it took is still there, and nothing longer has come.
- BPE carries out the first of its merges that fits, again and again. The merges that build a piece stay, in their
  order; those that go were never carried out for these texts. (A merge acts within one final piece, so each piece tells
  its own merges, whatever stands around it.)
- Unigram takes the likeliest path. It is still there, and no path has come; the unlikeliest piece stays, because the
  price of an unknown character is counted from it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import tokenizers

from polymodal.errors import ConfigError, DataError
from polymodal.text.tokenizer import Tokenizer

AT_ONCE = 4096  # texts tokenized at a time
Stays = Callable[[str], bool]


class Trimmed(NamedTuple):
    tokenizer: Tokenizer
    kept: list[int]  # the old id of each new one, rising


def trim(tokenizer: Tokenizer, texts: Sequence[str], characters: bool = True, needed: Iterable[int] = ()) -> Trimmed:
    """The tokenizer with no more than these texts need.

    Args:
        characters: keep every single character that has a token, also where no text uses it. Without them a character
            that no text has becomes unknown, unless the tokenizer falls back to bytes, which always stay.
        needed: ids that stay whatever the texts say.

    Raises:
        ConfigError: the kind of tokenizer is not known, or there is nothing to leave out.
        DataError: there is no text.
    """
    state = json.loads(tokenizer.backend.to_str())
    model = state["model"]
    if model["type"] not in _KINDS:
        raise ConfigError(f"trim: wanted a tokenizer of kind {', '.join(_KINDS)}, got {model['type']}")
    names = _names(tokenizer)
    stays = _KINDS[model["type"]](model, characters)
    kept = _used(tokenizer, texts) | {tokenizer.pad_id} | {token["id"] for token in state["added_tokens"]}
    kept |= {number for number, name in names.items() if stays(name) or name == model.get("unk_token")}
    kept = (kept | set(needed)) & names.keys()
    merges: set[tuple[str, str]] = set()
    if model["type"] == "BPE":
        merges = _merges(model, [names[number] for number in kept])
        ids = {name: number for number, name in names.items()}
        kept |= {ids[part] for merge in merges for part in (*merge, _merged(model, *merge))}
    if len(kept) == len(names):
        raise ConfigError(f"trim: the texts and their spelling need all {len(names)} tokens; none can be left out")
    new = {old: number for number, old in enumerate(sorted(kept))}
    _renumber(state, new, merges)
    fresh = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(state, ensure_ascii=False)))
    assert _names(fresh) == {new[old]: names[old] for old in kept}, "the library numbers tokens in its own way"
    return Trimmed(fresh, sorted(kept))


def _names(tokenizer: Tokenizer) -> dict[int, str]:
    return {number: name for name, number in tokenizer.backend.get_vocab(with_added_tokens=True).items()}


def _used(tokenizer: Tokenizer, texts: Sequence[str]) -> set[int]:
    """Ids of all texts in full length, with the special tokens around them."""
    if not texts:
        raise DataError("trim: wanted the texts whose tokens stay, got none")
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())  # for truncation is a state of the backend
    backend.encode_special_tokens = True  # as `Tokenizer` sets it
    backend.no_truncation()
    backend.no_padding()
    used: set[int] = set()
    for start in range(0, len(texts), AT_ONCE):
        for row in backend.encode_batch(list(texts[start : start + AT_ONCE])):
            used.update(row.ids)
    return used


# ---------------------------------------------------------------------------------------------------------------------
# What words are spelled with: which tokens stay though no text uses them?


def _of_wordpiece(model: dict[str, Any], characters: bool) -> Stays:
    prefix, vocab = model["continuing_subword_prefix"], model["vocab"]

    def stays(name: str) -> bool:
        first = not name.startswith(prefix) or name == prefix
        letters = name if first else name[len(prefix) :]
        spelled = [letter if first and place == 0 else prefix + letter for place, letter in enumerate(letters)]
        # A piece with a character that has no token of its own is the only way to spell it.
        return characters and (len(letters) == 1 or any(letter not in vocab for letter in spelled))

    return stays


def _of_bpe(model: dict[str, Any], characters: bool) -> Stays:
    prefix, suffix = model["continuing_subword_prefix"] or "", model["end_of_word_suffix"] or ""

    def stays(name: str) -> bool:
        letters = name.removeprefix(prefix).removesuffix(suffix) or name
        single = len(letters) == 1 and (characters or ord(letters) in _BYTE_LETTERS)
        return single or (model["byte_fallback"] and _is_byte(name))

    return stays


def _of_unigram(model: dict[str, Any], characters: bool) -> Stays:
    unlikeliest, _ = min(model["vocab"], key=lambda entry: entry[1])
    unknown = None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]

    def stays(name: str) -> bool:
        single = characters and len(name) == 1
        return single or name in (unlikeliest, unknown) or (model["byte_fallback"] and _is_byte(name))

    return stays


def _of_wordlevel(model: dict[str, Any], characters: bool) -> Stays:
    return lambda name: characters and len(name) == 1


_KINDS: dict[str, Callable[[dict[str, Any], bool], Stays]] = {
    "WordPiece": _of_wordpiece,
    "BPE": _of_bpe,
    "Unigram": _of_unigram,
    "WordLevel": _of_wordlevel,
}
# The letters in which byte-level BPE writes the 256 bytes: openai/gpt-2, src/encoder.py `bytes_to_unicode`.
_BYTE_LETTERS = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100), *range(0x100, 0x144)}


def _is_byte(name: str) -> bool:
    return len(name) == 6 and name.startswith("<0x") and name.endswith(">")


# ---------------------------------------------------------------------------------------------------------------------
# Merges


def _merges(model: dict[str, Any], pieces: Iterable[str]) -> set[tuple[str, str]]:
    """The merges that build these pieces, each by itself."""
    ranks = {merge: rank for rank, merge in enumerate(_pairs(model["merges"]))}
    return {merge for piece in pieces for merge in _built(model, _letters(model, piece), ranks)}


def _letters(model: dict[str, Any], piece: str) -> list[str]:
    """What BPE starts from: single characters, of which the last bears the suffix that ends a word, if there is one."""
    suffix, prefix = model["end_of_word_suffix"] or "", model["continuing_subword_prefix"] or ""
    ends = bool(suffix) and piece.endswith(suffix) and piece != suffix
    inside = bool(prefix) and piece.startswith(prefix) and piece != prefix
    bare = piece.removesuffix(suffix) if ends else piece
    bare = bare.removeprefix(prefix) if inside else bare
    letters = [prefix + letter if inside or place else letter for place, letter in enumerate(bare)]
    if ends:
        letters[-1] += suffix
    return letters


def _built(model: dict[str, Any], parts: list[str], ranks: dict[tuple[str, str], int]) -> Iterator[tuple[str, str]]:
    """The merges that BPE carries out on these parts, in their order."""
    while len(parts) > 1:
        rank, place = min((ranks.get(pair, len(ranks)), place) for place, pair in enumerate(pairwise(parts)))
        if rank == len(ranks):
            return
        left, right = parts[place : place + 2]
        yield left, right
        parts[place : place + 2] = [_merged(model, left, right)]


def _merged(model: dict[str, Any], left: str, right: str) -> str:
    return left + right.removeprefix(model["continuing_subword_prefix"] or "")


def _pairs(merges: list[Any]) -> list[tuple[str, str]]:
    """Merges as pairs; older files have them as strings with a space between."""
    split = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges)
    return [(left, right) for left, right in split]


# ---------------------------------------------------------------------------------------------------------------------
# New ids


def _renumber(state: dict[str, Any], new: dict[int, int], merges: set[tuple[str, str]]) -> None:
    """Write new ids everywhere in a tokenizer.json, in place, and leave out what has none."""
    model = state["model"]
    if model["type"] == "Unigram":
        if model["unk_id"] is not None:
            model["unk_id"] = new[model["unk_id"]]
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
    else:
        model["vocab"] = {name: new[number] for name, number in model["vocab"].items() if number in new}
    if model["type"] == "BPE":
        model["merges"] = [list(pair) for pair in _pairs(model["merges"]) if pair in merges]
    for token in state["added_tokens"]:
        token["id"] = new[token["id"]]
    if state["padding"]:
        state["padding"]["pad_id"] = new[state["padding"]["pad_id"]]
    if state["post_processor"]:
        _renumber_processor(state["post_processor"], new)


def _renumber_processor(processor: dict[str, Any], new: dict[int, int]) -> None:
    for inner in processor.get("processors", []):
        _renumber_processor(inner, new)
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [new[number] for number in special["ids"]]
    for name in ("cls", "sep"):
        if name in processor:
            token, number = processor[name]
            processor[name] = [token, new[number]]
