"""Masked text: what is hidden and how often, and the loss in plain floats."""

import math

import pytest
import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.objectives.masked_text import hide_text, masked_text_loss, word_starts
from polymodal.objectives.vocabulary import Vocabulary, vocabulary
from polymodal.preprocess import TextPreprocess
from polymodal.text import Tokenizer, train_tokenizer
from polymodal.types import Text
from tests import tiny
from tests.objectives import joint_toy

MASK, SIZE = 4, 50


def words() -> Vocabulary:
    """Ids 0 to 4 are special, from 30 on they continue a word."""
    special = torch.arange(SIZE) < 5
    return Vocabulary(MASK, special, torch.arange(SIZE) >= 30, special)


def long_text() -> Text:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, SIZE, (200, 60), generator=draw)
    ids[:, 0], ids[:, 59] = 2, 3
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[::2, 40:] = False
    return Text(ids, mask)


def hide(text: Text, rate: float = 0.15, whole_words: bool = False) -> tuple[Tensor, Tensor]:
    draw = torch.rand(3, *text.ids.shape, generator=torch.Generator().manual_seed(1))
    return hide_text(text, words(), rate, whole_words, draw[0], draw[1:])


def test_shares_are_those_of_bert() -> None:
    text = long_text()
    ids, places = hide(text)
    askable = text.mask & (text.ids >= 5)
    assert (places & ~askable).sum() == 0
    assert (places.sum() / askable.sum()).item() == pytest.approx(0.15, abs=0.01)
    before, after = text.ids[places], ids[places]
    masked, kept = (after == MASK).float().mean().item(), (after == before).float().mean().item()
    assert masked == pytest.approx(0.8, abs=0.03)
    assert kept == pytest.approx(0.1 + 0.1 / 45, abs=0.03)
    assert 1 - masked - kept == pytest.approx(0.1, abs=0.03)
    assert not words().special[after[after != MASK]].any()
    others = after[(after != MASK) & (after != before)]
    assert len(others.unique()) > 35
    assert torch.equal(ids[~places], text.ids[~places])


def test_special_ids_and_padding_stay_at_any_rate() -> None:
    text = long_text()
    _, places = hide(text, rate=0.999999)
    assert torch.equal(places, text.mask & (text.ids >= 5))


def test_a_word_starts_where_its_first_piece_stands() -> None:
    ids = torch.tensor([[2, 10, 30, 31, 11, 3], [31, 30, 10, 2, 35, 3]])
    assert word_starts(ids, words()).tolist() == [[0, 1, 1, 1, 4, 5], [0, 0, 2, 3, 4, 5]]


def test_words_are_hidden_whole_or_not_at_all() -> None:
    text = long_text()
    _, places = hide(text, rate=0.3, whole_words=True)
    start = word_starts(text.ids, words())
    askable = text.mask & (text.ids >= 5)
    assert torch.equal(places, places.gather(1, start) & askable | (places & (start == torch.arange(60))))
    assert (places == places.gather(1, start))[askable].all()
    assert (places.sum() / askable.sum()).item() == pytest.approx(0.3, abs=0.02)


def test_the_loss_in_plain_floats_and_nothing_masked() -> None:
    logits = [[2.0, 1.0, -1.0], [0.0, 0.5, 0.25]]
    ids = [0, 2]
    nats = [math.log(sum(map(math.exp, row))) - row[own] for row, own in zip(logits, ids, strict=True)]
    assert masked_text_loss(torch.tensor(logits), torch.tensor(ids)).item() == pytest.approx(sum(nats) / 2)
    nothing = torch.zeros(0, 3, requires_grad=True)
    loss = masked_text_loss(nothing, torch.zeros(0, dtype=torch.int64))
    assert loss.item() == 0
    loss.backward()


def test_each_piece_is_asked_for_in_its_own_place() -> None:
    """Not shifted: the loss is that of the states where the masks stand, for the ids that stood there."""
    joint = joint_toy.objectives({"kind": "masked_text", "rate": 0.4})
    model = joint_toy.model(joint).eval()
    step = joint_toy.step(model)
    result = joint(step)
    (objective,) = joint.objectives
    places = step.prepare(objective)  # type: ignore[arg-type]
    assert places.any()
    text, hidden = step.batch.inputs["text"], step.hidden["text"]
    assert isinstance(text, Text)
    assert isinstance(hidden, Text)
    assert not torch.equal(hidden.ids, text.ids)
    states = model.fuse(*model.encode({**step.batch.inputs, "text": hidden})).tokens["text"].sequence
    nats = []
    for row, place in places.nonzero().tolist():
        logits = model.pretraining["masked_text"](states[row, place][None])[0].tolist()
        nats.append(math.log(sum(map(math.exp, logits))) - logits[text.ids[row, place]])
    assert result.loss.item() == pytest.approx(sum(nats) / len(nats), rel=1e-5)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_tokenizers_say_where_words_begin(kind: str) -> None:
    tokenizer = train_tokenizer(["unbelievable stories", "一只狗在沙滩上"] * 3, kind, 600, min_frequency=9)  # type: ignore[arg-type]
    table = vocabulary(tokenizer)
    ids = tokenizer(["unbelievable stories", "一只狗 dog"], TextPreprocess(max_length=64)).ids
    starts = word_starts(ids, table)
    first, second = (len(set(row[row_ids != 0].tolist())) for row, row_ids in zip(starts, ids, strict=True))
    assert first == 2 + 2  # words, [CLS] and [SEP]
    # Three characters and a word; unigram may have a mark of a beginning that stands alone.
    assert second in ((6, 7) if kind == "unigram" else (6,))
    assert table.special[ids[:, 0]].all()
    assert table.mask == tokenizer.backend.token_to_id("[MASK]")


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    backend = tiny.tokenizer().backend.__class__.from_str(
        tiny.tokenizer().backend.to_str().replace("[MASK]", "[OTHER]")
    )
    with pytest.raises(ConfigError, match=r"has none of \[MASK\], <mask>, .*; learn a tokenizer"):
        vocabulary(Tokenizer(backend))


def test_an_input_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match='"image" is no text input; text inputs: text'):
        joint_toy.objectives({"kind": "masked_text", "input": "image"})
