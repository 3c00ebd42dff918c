"""A tower of one language learns the characters of another; what it knew before stays bit by bit."""

import math
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal import artifact
from polymodal.encoders.bert import Bert
from polymodal.errors import ConfigError, DataError
from polymodal.models.clip import Clip
from polymodal.preprocess import Preprocess, TextPreprocess
from polymodal.text import Tokenizer, train_tokenizer
from polymodal.train.language import Taught, teach_language
from tests import tiny

COLORS = {"red": "红", "green": "绿", "blue": "蓝", "white": "白", "black": "黑", "yellow": "黄"}
ANIMALS = {"dog": "狗", "cat": "猫", "horse": "马", "bird": "鸟", "fish": "鱼", "cow": "牛"}
ALL = [(f"{color} {animal}", COLORS[color] + ANIMALS[animal]) for color, animal in product(COLORS, ANIMALS)]
HELD_OUT = ALL[::7]  # red dog, green cat, ...: their characters are met in other pairs only
PAIRS = [pair for pair in ALL if pair not in HELD_OUT]
ENGLISH = [source for source, _ in ALL] + ["a red dog and a black cat", "fish"]
PREPROCESS = TextPreprocess(max_length=16)


@cache
def tokenizer() -> Tokenizer:
    return train_tokenizer([*COLORS, *ANIMALS, "and a"] * 3, "wordpiece", 200)


def tower(rows: int | None = None) -> Bert:
    torch.manual_seed(3)
    config = tiny.bert_config(vocab_size=rows or tokenizer().vocab_size, max_length=16, width=32, pool="mean")
    encoder = config.build().eval()
    with torch.no_grad():
        encoder.embedding.weight *= 10  # words weigh more than positions and special tokens, as after training
    return encoder


def teach(encoder: Bert | None = None, /, **changes: Any) -> Taught:
    settings: dict[str, Any] = {"pairs": PAIRS, "epochs": 15, "batch_size": 8, "progress": False} | changes
    return teach_language(encoder or tower(), tokenizer(), PREPROCESS, **settings)


@cache
def taught() -> Taught:
    return teach()


@torch.no_grad()
def vectors(encoder: Bert, reader: Tokenizer, texts: list[str]) -> Tensor:
    pooled: Tensor = encoder(reader(texts, PREPROCESS)).pooled
    return pooled


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def test_targets_come_near_their_sources() -> None:
    before, after = taught().before, taught().after
    assert before.top1 < 0.2
    assert after.top1 > 0.95
    assert after.cosine > before.cosine + 0.3
    assert taught().characters == 12
    assert taught().unread == 0


def test_characters_are_understood_in_pairs_that_were_not_taught() -> None:
    sources = vectors(taught().encoder, taught().tokenizer, [source for source, _ in ALL]).tolist()
    targets = vectors(taught().encoder, taught().tokenizer, [target for _, target in HELD_OUT]).tolist()
    nearest = [max(range(len(ALL)), key=lambda row: cosine(target, sources[row])) for target in targets]
    assert sum(ALL[row] == pair for row, pair in zip(nearest, HELD_OUT, strict=True)) >= 5


def test_the_measures_are_those_of_the_tower_that_is_given_back() -> None:
    # Lengths differ, so that a row that got another's place would show.
    pairs = [*PAIRS[:6], ("a red dog and a black cat", "红狗和黑猫"), ("fish", "鱼"), ("a fish", "鱼")]
    result = teach(pairs=pairs, epochs=2)
    sources = vectors(tower(), tokenizer(), [source for source, _ in pairs]).tolist()
    for measured, encoder, reader in (
        (result.before, tower(), tokenizer()),
        (result.after, result.encoder, result.tokenizer),
    ):
        targets = vectors(encoder, reader, [target for _, target in pairs]).tolist()
        scores = [[cosine(target, source) for source in sources] for target in targets]
        assert measured.cosine == pytest.approx(sum(scores[i][i] for i in range(len(pairs))) / len(pairs), abs=1e-5)
        hits = [scores[i][i] > max(scores[i][:i] + scores[i][i + 1 :]) for i in range(len(pairs))]
        assert measured.top1 == pytest.approx(sum(hits) / len(pairs))


def test_the_old_language_stays_bit_by_bit() -> None:
    old, new = tower(), taught().encoder
    ids = [reader(ENGLISH, PREPROCESS) for reader in (tokenizer(), taught().tokenizer)]
    assert torch.equal(ids[0].ids, ids[1].ids)
    assert torch.equal(vectors(old, tokenizer(), ENGLISH), vectors(new, taught().tokenizer, ENGLISH))
    weights = new.state_dict()
    rows = old.config.vocab_size
    weights["embedding.weight"] = weights["embedding.weight"][:rows]
    assert weights.keys() == old.state_dict().keys()
    assert all(torch.equal(weights[name], weight) for name, weight in old.state_dict().items())


def test_the_tower_that_was_given_is_left_alone() -> None:
    encoder = tower()
    teach(encoder, epochs=1)
    assert encoder.config == tower().config
    assert all(torch.equal(weight, encoder.state_dict()[name]) for name, weight in tower().state_dict().items())
    assert all(weight.requires_grad for weight in encoder.parameters())


def test_it_comes_through_an_artifact(tmp_path: Path) -> None:
    config = tiny.clip_config(text=taught().encoder.config)
    model = Clip(config).eval()
    model.text_encoder.load_state_dict(taught().encoder.state_dict())
    artifact.save(tmp_path / "a", model=model, tokenizer=taught().tokenizer, preprocess=Preprocess(text=PREPROCESS))
    found = artifact.load(tmp_path / "a")
    assert found.tokenizer is not None
    assert isinstance(found.model.text_encoder, Bert)
    texts = [text for pair in ALL for text in pair]
    loaded = vectors(found.model.text_encoder, found.tokenizer, texts)
    assert torch.equal(loaded, vectors(taught().encoder, taught().tokenizer, texts))


def test_a_seed_repeats_it_and_leaves_other_draws_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    encoder = tower()
    torch.manual_seed(5)
    first, again, other = (teach(encoder, epochs=2, seed=seed).encoder.embedding.weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_new_ids_lie_behind_rows_that_no_id_uses() -> None:
    rows = tokenizer().vocab_size + 5
    old, result = tower(rows), teach(tower(rows), epochs=1)
    assert result.encoder.config.vocab_size == rows + 12
    assert torch.equal(result.encoder.embedding.weight[:rows], old.embedding.weight)
    assert result.tokenizer(["红"], PREPROCESS).ids[0, 1] >= rows


def test_rows_start_at_what_their_texts_mean() -> None:
    hints = [("red dog", "火"), ("cat", "火"), ("cow", "狗")]
    pairs = [("blue dog", "狗"), ("bird", "鸟")]
    result = teach(pairs=pairs, hints=hints, epochs=1, lr=1e-9)
    old = tower().embedding.weight.detach()

    def mean(text: str) -> Tensor:
        return torch.stack([old[tokenizer().backend.token_to_id(word)] for word in text.split()]).mean(0)

    for character, start in {
        "火": (mean("red dog") + mean("cat")) / 2,
        "狗": (3 * mean("blue dog") + mean("cow")) / 4,
        "鸟": mean("bird"),
    }.items():
        row = result.encoder.embedding.weight[result.tokenizer.backend.token_to_id(character)]
        torch.testing.assert_close(row.detach(), start)


def test_it_counts_the_texts_of_which_a_part_stays_unknown() -> None:
    result = teach(pairs=[*PAIRS, ("red dog", "い狗い"), ("blue cat", "蓝猫です")], epochs=1)
    assert result.unread == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": []}, "wanted pairs of a source text and a target text, got none"),
        ({"pairs": [("dog", "狗"), (" ", "猫")]}, "the source text of pair 1 is empty; leave the pair out"),
        ({"pairs": [("dog", "狗"), ("cat", "\u0000")]}, "the target text of pair 1 is empty"),
        ({"hints": [("dog", "")]}, "the target text of hint 0 is empty; leave the hint out"),
        ({"pairs": [("狗", "dog")]}, "the 1 target texts hold no Chinese character that the vocabulary does not know"),
    ],
)
def test_texts_that_teach_nothing_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        teach(**changes)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "lr"])
def test_numbers_must_be_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be more than 0, got 0"):
        teach(None, **{name: 0})


def test_the_tokenizer_must_be_a_wordpiece_and_the_encoders_own() -> None:
    with pytest.raises(ConfigError, match="wanted a WordPiece tokenizer, got BPE"):
        teach_language(tower(tiny.VOCAB_SIZE), tiny.tokenizer(), PREPROCESS, PAIRS)
    with pytest.raises(
        ConfigError, match=r"has \d+ ids and the encoder rows for 20; take the tokenizer that came with"
    ):
        teach(tower(20))


def test_the_encoder_must_be_a_bert() -> None:
    with pytest.raises(ConfigError, match="wanted a Bert as the encoder, got TextTransformer"):
        teach_language(tiny.text_config().build(), tokenizer(), PREPROCESS, PAIRS)


@pytest.mark.slow
def test_minilm_learns_chinese_names_of_emoji() -> None:
    import pyarrow.parquet as pq

    from polymodal.models import published

    table = Path(__file__).parents[2] / "examples" / "emoji" / "emoji.parquet"
    rows = pq.read_table(table, columns=["name", "name_zh", "keywords_zh"]).to_pylist()
    rows = list({row["name"]: row for row in rows}.values())[:100]
    minilm = published.load("pip:all-minilm-l6-v2")
    assert minilm.tokenizer is not None
    result = teach_language(
        minilm.model,
        minilm.tokenizer,
        minilm.preprocess.text,
        [(row["name"], row["name_zh"]) for row in rows],
        [(row["name"], keyword) for row in rows for keyword in row["keywords_zh"]],
        batch_size=16,
        progress=False,
    )
    assert result.before.top1 < 0.2
    assert result.after.top1 > 0.9
    assert result.after.cosine > 0.7
    assert isinstance(minilm.model, Bert)
    english = [row["name"] for row in rows]
    after = vectors(result.encoder, result.tokenizer, english)
    assert torch.equal(vectors(minilm.model, minilm.tokenizer, english), after)
