"""Tokenizers learned from captions, Chinese ones first, and vocabularies that grow."""

import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polymodal.errors import ConfigError, DataError
from polymodal.preprocess import TextPreprocess
from polymodal.text import Tokenizer, extend_vocabulary, grow_embedding, train_tokenizer
from polymodal.text.train import Kind

CAPTIONS = [
    "一只棕色的狗在沙滩上奔跑",
    "两只猫睡在红色的沙发上",
    "一个人在沙滩上骑自行车",
    "一只猫在看一只狗",
    "a brown dog runs on the beach",
    "two cats sleep on a red sofa",
    "一个人 riding a bicycle 在街上",
] * 3
LONG = TextPreprocess(max_length=512)


def normal_form(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    row: list[int] = tokenizer([text], LONG).ids[0].tolist()
    return row


BPE = train_tokenizer(CAPTIONS, "bpe", 600)
UNIGRAM = train_tokenizer(CAPTIONS, "unigram", 600)
CHARACTERS = train_tokenizer(CAPTIONS, "character", 600)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece", "character"])
def test_special_tokens_stand_in_place(kind: Kind) -> None:
    tokenizer = train_tokenizer(CAPTIONS, kind, 600)
    ids = ids_of(tokenizer, "一只狗")
    assert (ids[0], ids[-1], tokenizer.pad_id) == (2, 3, 0)
    assert ids_of(tokenizer, "") == [2, 3]
    assert tokenizer.vocab_size <= 600
    assert max(tokenizer.backend.get_vocab().values()) == tokenizer.vocab_size - 1


@pytest.mark.parametrize("tokenizer", [BPE, UNIGRAM], ids=["bpe", "unigram"])
@pytest.mark.parametrize("text", [*CAPTIONS[:7], "一只从未见过的鱷魚 😀", "naïve Ａ１２", "x = {y}; <z> [SEP] [CLS]"])
def test_every_text_survives_there_and_back(tokenizer: Tokenizer, text: str) -> None:
    ids = ids_of(tokenizer, text)
    assert 1 not in ids  # [UNK]
    assert tokenizer.decode(ids) == normal_form(text)


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=30))
def test_any_text_survives_there_and_back_in_bytes(text: str) -> None:
    # Lower-casing and NFKC do not commute for a few letters (İ); the tokenizer's own normalizer is the truth there.
    expected = BPE.backend.normalizer.normalize_str(text)
    assert BPE.decode(ids_of(BPE, text)) == expected.strip()


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_chinese_takes_less_tokens_than_bytes_and_no_sentence_is_one_token(kind: Kind) -> None:
    tokenizer = train_tokenizer(CAPTIONS, kind, 600)
    caption = CAPTIONS[0]
    length = len(ids_of(tokenizer, caption)) - 2
    assert 2 <= length <= len(caption)


def test_frequent_chinese_words_are_learned() -> None:
    vocab = UNIGRAM.backend.get_vocab()
    assert "在沙滩上" in vocab
    assert not any(len(piece) > 8 for piece in vocab if not piece.startswith(("<0x", "[")))


def test_wordpiece_takes_each_chinese_character_alone() -> None:
    tokenizer = train_tokenizer(CAPTIONS, "wordpiece", 600)
    assert len(ids_of(tokenizer, "一只狗")) == 5


def test_case_is_kept_when_asked() -> None:
    tokenizer = train_tokenizer(["A Dog"] * 3, "bpe", 600, lowercase=False)
    assert tokenizer.decode(ids_of(tokenizer, "Dog")) == "Dog"


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "character"])
def test_the_same_texts_give_the_same_tokenizer(kind: Kind) -> None:
    once, twice = (train_tokenizer(iter(CAPTIONS), kind, 600) for _ in range(2))
    assert once.backend.get_vocab() == twice.backend.get_vocab()


def test_a_character_is_a_token_in_any_script() -> None:
    tokenizer = train_tokenizer(["一只狗 dog", "只狗 ＤＯ "] * 2, "character", 64)
    assert tokenizer.backend.get_vocab(with_added_tokens=True) == {
        token: number
        for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" do只狗g一"])  # frequent first
    }
    ids = ids_of(tokenizer, "一只\n\n狗 DOG猫!😀")
    tokens = ["[CLS]", *"一只 狗 dog", "[UNK]", "[UNK]", "[UNK]", "[SEP]"]
    assert [tokenizer.backend.id_to_token(number) for number in ids] == tokens
    assert tokenizer.decode(ids) == "一只 狗 dog"  # what is unknown is lost
    assert ids_of(tokenizer, "[SEP]")[1:-1] != [3]  # letters, not the token


def test_only_the_most_frequent_characters_become_tokens() -> None:
    texts = ["狗" * 3 + "猫" * 2 + "鱼", "".join(map(chr, range(0x4E00, 0x4E00 + 100))) * 2]
    tokenizer = train_tokenizer(texts, "character", 64)
    assert tokenizer.vocab_size == 64
    assert tokenizer.backend.token_to_id("狗") == 5
    assert tokenizer.backend.token_to_id("鱼") is None  # seen once
    assert train_tokenizer(texts, "character", 200, min_frequency=1).backend.token_to_id("鱼") is not None


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_has_a_token_for_each_character_of_its_normal_form(text: str) -> None:
    length = len(CHARACTERS.backend.normalizer.normalize_str(text))
    assert len(ids_of(CHARACTERS, text)) == length + 2


def test_its_errors() -> None:
    with pytest.raises(ConfigError, match="vocab_size must be at least 512 for bpe, got 100"):
        train_tokenizer(CAPTIONS, "bpe", 100)
    with pytest.raises(DataError, match="wanted texts to learn from, got none"):
        train_tokenizer(["", "  "], "bpe", 600)
    with pytest.raises(ConfigError, match="vocab_size must be at least 64 for character, got 10"):
        train_tokenizer(CAPTIONS, "character", 10)
    for kind in ("unigram", "character"):
        with pytest.raises(DataError, match="wanted texts to learn from, got none"):
            train_tokenizer([], kind, 600)


def test_new_characters_get_ids_behind_the_old_ones() -> None:
    tokenizer = train_tokenizer(["a dog runs", "两只猫"] * 3, "wordpiece", 200)
    old = tokenizer.backend.get_vocab()
    extended = extend_vocabulary(tokenizer, ["一只狗", "一只狗 runs", "鳄"])
    new = extended.backend.get_vocab()
    assert {token: new[token] for token in old} == old
    assert sorted(new.keys() - old.keys()) == sorted("一狗鳄")  # 只 was known
    assert [new["一"], new["狗"], new["鳄"]] == [len(old), len(old) + 1, len(old) + 2]  # frequent first
    assert ids_of(extended, "a dog") == ids_of(tokenizer, "a dog")
    assert 1 in ids_of(tokenizer, "狗")
    assert 1 not in ids_of(extended, "狗")
    assert extended.vocab_size == tokenizer.vocab_size + 3
    assert extended.pad_id == tokenizer.pad_id


def test_only_the_most_frequent_characters_are_taken() -> None:
    tokenizer = train_tokenizer(["a dog runs"] * 3, "wordpiece", 200)
    extended = extend_vocabulary(tokenizer, ["狗猫", "狗"], most=1)
    assert extended.backend.get_vocab().keys() - tokenizer.backend.get_vocab().keys() == {"狗"}


def test_new_characters_may_start_behind_spare_rows() -> None:
    tokenizer = train_tokenizer(["a dog runs"] * 3, "wordpiece", 200)
    start = tokenizer.vocab_size + 3
    extended = extend_vocabulary(tokenizer, ["狗"], start=start)
    assert extended.backend.token_to_id("狗") == start
    with pytest.raises(ConfigError, match=f"start must be at least {start - 3}, got 2"):
        extend_vocabulary(tokenizer, ["狗"], start=2)


def test_only_a_wordpiece_is_extended() -> None:
    with pytest.raises(ConfigError, match="wanted a WordPiece tokenizer, got BPE"):
        extend_vocabulary(BPE, ["狗"])


def test_a_grown_embedding_keeps_its_rows_and_adds_near_ones() -> None:
    torch.manual_seed(1)
    old = nn.Embedding(400, 8)
    with torch.no_grad():
        old.weight.add_(5.0)
    new = grow_embedding(old, 700)
    assert new.weight.shape == (700, 8)
    assert torch.equal(new.weight[:400], old.weight)
    added = new.weight[400:]
    torch.testing.assert_close(added.mean(0), old.weight.mean(0), atol=0.05, rtol=0)
    assert added.std(0).mean().item() == pytest.approx(0.1, rel=0.2)
    with pytest.raises(ConfigError, match="wanted at least the 400 rows there are, got 300"):
        grow_embedding(old, 300)
