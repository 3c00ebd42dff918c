"""Tokenizers read from folders, against transformers; what `Text` promises."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tokenizers import pre_tokenizers

from polymodal.errors import ArtifactError, DataError
from polymodal.preprocess import TextPreprocess
from polymodal.text import Tokenizer, train_tokenizer
from polymodal.types import Text
from tests import tiny

TEXTS = [
    "A photo of a  CAT, it's sitting!",
    "they'll  pay 1234 dollars\tand\nleave",
    "一只狗在沙滩上 with DOGS",
    "Ünïcödé Ａ１ 😀 naïve",
    "",
]
SHORT = TextPreprocess(max_length=8)


def clip_folder(folder: Path) -> Path:
    """vocab.json and merges.txt as OpenAI's are ordered: bytes, bytes that end a word, merges, two specials."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "t</w>"), ("c", "at</w>"), ("t", "h"), ("d", "o"), ("do", "g</w>"), ("i", "n"), ("o", "f</w>")]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *(left + right for left, right in merges)]
    vocab = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    return folder


def bert_folder(folder: Path, lowercase: bool) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "A", "photo", "of", "cat", "CAT", "it", "'", "s", ","]
    pieces = [
        "sit",
        "##ting",
        "##s",
        "!",
        "1",
        "##2",
        "##3",
        "##4",
        "狗",
        "一",
        "只",
        "dog",
        "DOG",
        "##S",
        "naive",
        "unicode",
    ]
    (folder / "vocab.txt").write_text("\n".join(words + pieces) + "\n", encoding="utf-8")
    settings = {"do_lower_case": lowercase, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def rows(text: Text) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(text.ids, text.mask, strict=True)]


def test_clip_agrees_with_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(clip_folder(tmp_path))
    ours = Tokenizer.load(tmp_path)(TEXTS, TextPreprocess(max_length=77))
    assert rows(ours) == theirs(TEXTS)["input_ids"]


def test_clip_gives_back_its_normal_form(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(clip_folder(tmp_path))
    ids = tokenizer(["A dog,  it's\tON the cat"], TextPreprocess()).ids[0]
    assert tokenizer.decode(ids.tolist()) == "a dog , it 's on the cat"
    assert tokenizer.vocab_size == 521


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece_agrees_with_transformers(lowercase: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertTokenizer.from_pretrained(bert_folder(tmp_path, lowercase))
    tokenizer = Tokenizer.load(tmp_path)
    assert rows(tokenizer(TEXTS, TextPreprocess(max_length=77))) == theirs(TEXTS)["input_ids"]
    assert (tokenizer.pad_id, tokenizer.pad_token) == (0, "[PAD]")


def test_it_is_trimmed_to_the_longest_of_the_batch_and_padded_on_the_right() -> None:
    text = tiny.tokenizer()(["a dog", "two cats sleep"], TextPreprocess(max_length=77))
    assert text.ids.shape == text.mask.shape == (2, int(text.mask.sum(1).max()))
    assert text.ids.dtype == torch.int64
    assert text.mask.dtype == torch.bool
    assert text.mask.int().diff(dim=1).le(0).all()
    assert (text.ids[~text.mask] == tiny.tokenizer().pad_id).all()


def test_a_long_text_keeps_its_last_special_token() -> None:
    tokenizer = tiny.tokenizer()
    text = tokenizer(["a dog on the beach " * 20], SHORT)
    assert text.ids.shape == (1, 8)
    assert text.ids[0, -1] == tokenizer.backend.token_to_id("[SEP]")
    assert text.ids[0, 0] == tokenizer.backend.token_to_id("[CLS]")
    assert text.mask.all()


def test_lengths_of_one_call_do_not_stay_for_the_next() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer(["a dog"], TextPreprocess(max_length=30, pad_to_max=True))
    assert tokenizer(["a dog on the beach " * 4], TextPreprocess(max_length=12)).ids.shape == (1, 12)
    assert tokenizer(["a dog on the beach " * 4], TextPreprocess(max_length=77)).ids.shape[1] > 12


def test_padding_to_the_full_length_counts_as_text() -> None:
    text = tiny.tokenizer()(["a dog", ""], TextPreprocess(max_length=9, pad_to_max=True))
    assert text.ids.shape == (2, 9)
    assert text.mask.all()


def test_a_caption_cannot_bring_special_tokens_along() -> None:
    tokenizer = tiny.tokenizer()
    ids = tokenizer(["a [SEP] dog [PAD]"], TextPreprocess(max_length=77)).ids[0].tolist()
    assert [ids.count(number) for number in range(4)] == [0, 0, 1, 1]
    assert tokenizer.decode(ids) == "a [sep] dog [pad]"


def test_no_texts_and_empty_texts() -> None:
    assert tiny.tokenizer()([], SHORT).ids.shape == (0, 1)
    text = tiny.tokenizer()(["", ""], SHORT)
    assert text.ids.shape == (2, 2)
    assert text.mask.all()


def test_an_empty_text_without_special_tokens_is_one_masked_token() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel

    bare = Tokenizer(Backend(WordLevel({"<pad>": 0, "dog": 1}, unk_token="<pad>")))
    text = bare(["", ""], SHORT)
    assert text.ids.tolist() == [[0], [0]]
    assert not text.mask.any()


def test_what_is_no_list_of_texts_is_refused() -> None:
    with pytest.raises(DataError, match="wanted a list of texts, got one str"):
        tiny.tokenizer()("a dog", SHORT)
    with pytest.raises(DataError, match="text 1 must be a str, got float"):
        tiny.tokenizer()(["a dog", float("nan")], SHORT)  # type: ignore[list-item]


def test_a_length_with_no_room_for_the_special_tokens_is_refused(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = train_tokenizer(tiny.CAPTIONS)
    tokenizer.backend.post_processor = TemplateProcessing(
        single="[CLS] [CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    with pytest.raises(DataError, match="max_length 2 is less than the 3 special tokens"):
        tokenizer(["a"], TextPreprocess(max_length=2))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(bert_folder(tmp_path, lowercase=True))
    expected = tokenizer(TEXTS, SHORT)
    (tmp_path / "alone").mkdir()
    tokenizer.save(tmp_path / "alone")
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["tokenizer.json"]
    again = Tokenizer.load(tmp_path / "alone")
    found = again(TEXTS, SHORT)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.mask, expected.mask)
    assert again.pad_id == tokenizer.pad_id


def test_length_and_padding_in_the_file_do_not_bind_us(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(tiny.CAPTIONS)
    tokenizer.backend.enable_padding(length=128, pad_id=0, pad_token="[PAD]")
    tokenizer.backend.enable_truncation(4)
    (tmp_path / "tokenizer.json").write_text(tokenizer.backend.to_str(), encoding="utf-8")
    text = Tokenizer.load(tmp_path)(["a dog on the beach"], TextPreprocess(max_length=77))
    assert 4 < text.ids.shape[1] < 128


def test_what_cannot_be_read_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"wanted tokenizer\.json, vocab\.json with merges\.txt, or vocab\.txt, got none$"
    ):
        Tokenizer.load(tmp_path)
    (tmp_path / "spiece.model").touch()
    with pytest.raises(ArtifactError, match=r"spiece\.model is not read: convert it once with transformers"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ArtifactError, match=r"needs \[CLS\] and \[SEP\], and has not both"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match="the tokenizer cannot be read: EOF while parsing"):
        Tokenizer.load(tmp_path)


def test_a_padding_token_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path, lowercase=True)
    (folder / "tokenizer_config.json").write_text('{"pad_token": {"content": "<nothing>"}}')
    with pytest.raises(ArtifactError, match='the padding token "<nothing>" is not in the vocabulary'):
        Tokenizer.load(folder)


def test_threads_that_ask_for_different_lengths_get_each_their_own() -> None:
    tokenizer = tiny.tokenizer()
    asked = [TextPreprocess(max_length=length, pad_to_max=length % 2 == 0) for length in range(3, 11)]
    texts = ["a dog on the beach and a cat in the house", "a dog"]
    alone = [tokenizer(texts, one) for one in asked]

    def ask(turn: int) -> Text:
        return tokenizer(texts, asked[turn % len(asked)])

    with ThreadPoolExecutor(8) as pool:
        for turn, answer in enumerate(pool.map(ask, range(400))):
            wanted = alone[turn % len(asked)]
            assert torch.equal(answer.ids, wanted.ids)
            assert torch.equal(answer.mask, wanted.mask)
