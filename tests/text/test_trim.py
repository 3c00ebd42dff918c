"""A trimmed tokenizer: the same pieces for the texts that it was trimmed to, and an encoding for all others."""

import json
from typing import Any, get_args

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from polymodal.errors import ConfigError, DataError
from polymodal.preprocess import TextPreprocess
from polymodal.text import Tokenizer, train_tokenizer
from polymodal.text.tokenizer import _clip
from polymodal.text.train import Kind
from polymodal.text.trim import trim

KINDS: tuple[Kind, ...] = get_args(Kind)
# fmt: off
WORDS = ["dog", "dogs", "doghouse", "beach", "beaches", "bicycle", "the", "there", "then", "sofa", "狗", "沙滩",
         "沙发", "猫", "a", "is", "on", "cat", "café", "naïve", "🙂", "🙁", "42", "1984", "don't", "自行车"]
# fmt: on
CORPUS = [" ".join(WORDS[(7 * row + 3 * place) % len(WORDS)] for place in range(6)) for row in range(60)]
SETTINGS = TextPreprocess(max_length=64)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    encoded = tokenizer.backend.encode(text)
    return [token for token, real in zip(encoded.tokens, encoded.attention_mask, strict=True) if real]


def trained(kind: Kind) -> Tokenizer:
    return train_tokenizer(CORPUS, kind, vocab_size=600, min_frequency=1)


TRAINED = {kind: trained(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
@settings(deadline=None, max_examples=15)
@given(texts=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join), min_size=1, max_size=4))
def test_kept_texts_become_the_same_pieces_and_others_still_have_some(kind: str, texts: list[str]) -> None:
    whole = TRAINED[kind]  # type: ignore[index]
    trimmed, kept = trim(whole, texts)
    assert len(kept) == trimmed.vocab_size < whole.vocab_size
    for text in texts:
        assert pieces(trimmed, text) == pieces(whole, text)
        new, old = (one([text], SETTINGS).ids[0].tolist() for one in (trimmed, whole))
        assert [kept[number] for number in new] == old
        assert trimmed.decode(new) == whole.decode(old)
    for text in CORPUS[:12]:
        assert pieces(trimmed, text).count("[UNK]") == pieces(whole, text).count("[UNK]")
        assert trimmed.decode(trimmed([text], SETTINGS).ids[0]) == whole.decode(whole([text], SETTINGS).ids[0])


@pytest.mark.parametrize("kind", KINDS)
def test_without_characters_only_what_the_texts_use_stays(kind: Kind) -> None:
    texts = ["the dog", "沙滩"]
    trimmed, kept = trim(TRAINED[kind], texts, characters=False)
    for text in texts:
        assert pieces(trimmed, text) == pieces(TRAINED[kind], text)
    unknown = pieces(trimmed, "bicycle").count("[UNK]")
    assert (unknown > 0) == (kind in ("wordpiece", "character"))  # the others have bytes
    assert len(kept) < 320 if kind in ("bpe", "unigram") else len(kept) < 30


def test_special_tokens_keep_their_part(tmp_path: Any) -> None:
    for kind in KINDS[:3]:
        trimmed, _ = trim(TRAINED[kind], ["a dog"], needed=[7])
        assert trimmed.pad_id == 0
        ids, mask = trimmed(["a dog", "a dog on"], SETTINGS)
        assert ids[0, 0] == trimmed.backend.token_to_id("[CLS]")
        assert ids[1, -1] == trimmed.backend.token_to_id("[SEP]")
        assert ids[0, -1] == trimmed.pad_id or mask.all()
        assert trimmed.backend.id_to_token(5) is not None
        trimmed.save(tmp_path)
        assert Tokenizer.load(tmp_path)(["a dog"], SETTINGS).ids.tolist() == trimmed(["a dog"], SETTINGS).ids.tolist()


def clip(folder: Any) -> Tokenizer:
    """Of CLIP's form: bytes with and without the mark of a word's end, then merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("d", "o"),
        ("g", "s</w>"),
        ("do", "g</w>"),
        ("do", "gs</w>"),
        ("c", "a"),
        ("ca", "t</w>"),
        ("o", "n</w>"),
    ]
    vocab = [*letters, *(f"{letter}</w>" for letter in letters), *(a + b for a, b in merges)]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(vocab)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges))
    return Tokenizer(_clip(folder))


def test_merges_that_no_kept_piece_is_built_by_go(tmp_path: Any) -> None:
    whole = clip(tmp_path)
    trimmed, kept = trim(whole, ["dogs"])
    assert pieces(whole, "dogs dog cat on") == [
        "<|startoftext|>",
        "dogs</w>",
        "dog</w>",
        "cat</w>",
        "on</w>",
        "<|endoftext|>",
    ]
    assert pieces(trimmed, "dogs dog cat") == [
        "<|startoftext|>", "dogs</w>", "do", "g</w>", "c", "a", "t</w>", "<|endoftext|>",
    ]  # fmt: skip
    merges = json.loads(trimmed.backend.to_str())["model"]["merges"]
    assert merges == [["d", "o"], ["g", "s</w>"], ["do", "gs</w>"]]
    assert trimmed.vocab_size == len(kept) == 512 + 3 + 2
    assert trimmed(["dogs"], SETTINGS).ids.max() == trimmed.backend.token_to_id("<|endoftext|>") == len(kept) - 1


def test_a_piece_with_a_character_that_has_no_token_of_its_own_stays() -> None:
    vocab = {name: number for number, name in enumerate(["[PAD]", "[UNK]", "a", "##b", "xy", "ab"])}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trimmed, kept = trim(Tokenizer(backend, "[PAD]"), ["a"])
    assert set(trimmed.backend.get_vocab()) == {"[PAD]", "[UNK]", "a", "##b", "xy"}
    assert kept == [0, 1, 2, 3, 4]


def test_what_cannot_be_trimmed_is_refused() -> None:
    whole = TRAINED["wordpiece"]
    with pytest.raises(DataError, match="trim: wanted the texts whose tokens stay, got none"):
        trim(whole, [])
    trimmed, _ = trim(whole, ["dogs"])
    with pytest.raises(
        ConfigError, match=r"trim: the texts and their spelling need all \d+ tokens; none can be left out"
    ):
        trim(trimmed, ["dogs"])
