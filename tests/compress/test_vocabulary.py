"""The step `vocabulary`: texts of the table give the same vectors bit by bit, all others still give some."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal import artifact
from polymodal.compress.prune import Prune
from polymodal.compress.step import Work
from polymodal.compress.vocabulary import Vocabulary
from polymodal.data.feature_rows import FeatureRows
from polymodal.data.manifest import Manifest
from polymodal.encoders import LstmConfig, RecordConfig, TransformersConfig
from polymodal.errors import ArtifactError, ConfigError, DataError
from polymodal.features import Features, NumberColumn, RecordInput, Target, TextInput
from polymodal.fusion.early import EarlyConfig
from polymodal.models.forms import Int8Form
from polymodal.models.heads import HeadsConfig, LinearHead
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.pretraining import MaskedTextHeadConfig
from polymodal.preprocess import Preprocess, TextPreprocess
from polymodal.text import Tokenizer, train_tokenizer
from tests import tiny
from tests.compress import works
from tests.compress.models import moved
from tests.engine.tables import CAPTIONS

UNSEEN = ["a bicycle sleeps on a beach, red", "自行车 on 沙滩", "quite another text", "🙂"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMODAL_CACHE", str(tmp_path / "cache"))


def vectors(work: Work, texts: list[str], preprocess: TextPreprocess | None = None) -> Tensor:
    assert work.tokenizer is not None
    encoder: Any = work.copy().get_submodule("text_encoder")
    with torch.no_grad():
        pooled: Tensor = encoder(work.tokenizer(texts, preprocess or tiny.preprocess().text)).pooled
    return pooled


def embedding(work: Work) -> Tensor:
    weight: Any = work.model.get_submodule("text_encoder.embedding").weight
    assert isinstance(weight, Tensor)
    return weight


def longer() -> Preprocess:
    """Fewer tokens than the tower has positions for."""
    return Preprocess(image=tiny.preprocess().image, text=TextPreprocess(max_length=8))


def with_tokenizer(folder: Path, kind: Any) -> Work:
    tokenizer = train_tokenizer(tiny.CAPTIONS * 2, kind, vocab_size=512)
    model: Any = moved(tiny.clip(text=tiny.bert_config(vocab_size=tokenizer.vocab_size)))
    return works.pairs(folder, model, tokenizer=tokenizer)


def test_texts_of_the_table_give_the_same_vectors_bit_by_bit(tmp_path: Path) -> None:
    for kind in ("bpe", "unigram", "wordpiece"):
        (tmp_path / kind).mkdir()
        work = with_tokenizer(tmp_path / kind, kind)
        after = works.done(Vocabulary(), work)
        assert after.tokenizer is not None
        assert len(embedding(after)) == after.tokenizer.vocab_size < len(embedding(work)), kind
        assert torch.equal(vectors(after, CAPTIONS), vectors(work, CAPTIONS))
        assert vectors(after, UNSEEN).isfinite().all()
        read = works.saved_and_read(tmp_path / kind, after)
        assert torch.equal(vectors(replace(after, model=read), CAPTIONS), vectors(work, CAPTIONS))


@pytest.mark.parametrize(
    "pool", [{"pool": "eos"}, {"pool": "eos", "eos_token_id": 3}, {"pool": "last"}, {"pool": "mean"}]
)
def test_the_end_token_is_found_under_its_new_id(tmp_path: Path, pool: dict[str, Any]) -> None:
    model: Any = moved(tiny.clip(text=tiny.text_config(**pool)))
    work = works.pairs(tmp_path, model)
    after = works.done(Vocabulary(), work)
    assert torch.equal(vectors(after, CAPTIONS), vectors(work, CAPTIONS))


def test_positions_that_no_text_reaches_go_along(tmp_path: Path) -> None:
    work = works.pairs(tmp_path, preprocess=longer())
    after = works.done(Vocabulary(), work)
    assert after.model.get_parameter("text_encoder.positions").shape == (8, 16)
    settings = longer().text
    assert torch.equal(vectors(after, CAPTIONS, settings), vectors(work, CAPTIONS, settings))
    works.saved_and_read(tmp_path, after)


def test_it_goes_with_other_steps(tmp_path: Path) -> None:
    work = works.pairs(tmp_path)
    pruned = Prune(ffn=0.5, heads=0.5).run(work)
    after = works.done(Vocabulary(), pruned)
    assert torch.equal(vectors(after, CAPTIONS), vectors(pruned, CAPTIONS))
    again = Prune(ffn=0.5).run(after)
    assert torch.equal(
        vectors(replace(again, model=works.saved_and_read(tmp_path, again)), CAPTIONS), vectors(again, CAPTIONS)
    )


def test_an_lstm_and_a_tower_of_transformers(tmp_path: Path) -> None:
    bert = {"vocab_size": tiny.VOCAB_SIZE, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = {"model_type": "bert", "intermediate_size": 32, "pad_token_id": 0} | bert
    lstm = LstmConfig(vocab_size=tiny.VOCAB_SIZE, width=16, embedding_width=8)
    for name, text in (("lstm", lstm), ("bert", TransformersConfig(reads="text", width=16, settings=settings))):
        (tmp_path / name).mkdir()
        work = table(tmp_path / name, text)
        after = works.done(Vocabulary(), work)
        assert torch.equal(said(after), said(work))
        assert sum(p.numel() for p in after.model.parameters()) < sum(p.numel() for p in work.model.parameters())
        works.saved_and_read(tmp_path / name, after)


def table(folder: Path, text: Any, **changes: Any) -> Work:
    """A model of a number and a text of two columns, and rows for it."""
    lines = [{"title": f"title {row % 3}", "notes": caption, "area": 10.0 * row, "price": 3.0 * row}
             for row, caption in enumerate(CAPTIONS)]  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), "utf-8")
    inputs: dict[str, Any] = {
        "notes.v1": TextInput(columns=("title", "notes"), preprocess=tiny.preprocess().text),
        "record": RecordInput(numbers=(NumberColumn(name="area", mean=20.0, std=15.0),)),
    }
    features = Features(inputs=inputs, targets={"price": Target(columns=("price",), task="regression")})
    torch.manual_seed(3)
    config = MultimodalConfig(
        encoders={"notes.v1": text, "record": RecordConfig(numbers=1, width=8, layers=1, heads=2, dropout=0.0)},
        fusion=EarlyConfig(width=16, layers=1, heads=2),
        heads=HeadsConfig(targets={"price": LinearHead(outputs=1)}),
        **changes,
    )
    model: Any = moved(config.build())
    kept: Any = {"tokenizer": tiny.tokenizer(), "preprocess": features}
    loaded = artifact.load(artifact.save(folder / "whole", model=model, **kept))
    return works.work_of(loaded, Manifest.read(folder / "rows.jsonl"))


@torch.no_grad()
def said(work: Work) -> Tensor:
    assert isinstance(work.preprocess, Features)
    batch = FeatureRows(work.train, work.preprocess, work.tokenizer).batch(range(len(work.train)))
    model: Any = work.copy()  # in memory: the order of sums goes by how weights are aligned, and files are not
    prediction: Tensor = model(batch.inputs, batch.present).predictions["price"]
    return prediction


def test_a_model_of_a_table_and_its_head_for_masked_text(tmp_path: Path) -> None:
    work = table(tmp_path, tiny.bert_config(), pretraining={"words": MaskedTextHeadConfig(input="notes.v1")})
    after = works.done(Vocabulary(), work)
    assert torch.equal(said(after), said(work))
    read: Any = works.saved_and_read(tmp_path, after)
    assert after.tokenizer is not None
    size = after.tokenizer.vocab_size
    assert read.pretraining["words"](torch.randn(2, 16)).shape == (2, size)
    assert read.config.encoders["notes.v1"].vocab_size == size < work.model.config.encoders["notes.v1"].vocab_size  # type: ignore[union-attr]


def test_single_characters_may_go(tmp_path: Path) -> None:
    work = with_tokenizer(tmp_path, "wordpiece")
    sizes = [len(embedding(Vocabulary(characters=characters).run(work))) for characters in (True, False)]
    assert sizes[1] < sizes[0]
    after = Vocabulary(characters=False).run(work)
    assert torch.equal(vectors(after, CAPTIONS), vectors(work, CAPTIONS))
    assert isinstance(after.tokenizer, Tokenizer)
    assert "[UNK]" in after.tokenizer.backend.encode("quite 自行车").tokens


def test_what_has_no_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    with pytest.raises(ConfigError, match='step "vocabulary": the model reads no text, so it has no vocabulary'):
        Vocabulary().run(works.rows(tmp_path / "rows"))
    work = works.pairs(tmp_path)
    with pytest.raises(DataError, match='step "vocabulary": no row has a text; give a table of texts to --data'):
        Vocabulary().run(replace(work, train=work.train.select([])))
    after = Vocabulary().run(work)
    with pytest.raises(ConfigError, match="the texts and their spelling need all"):
        Vocabulary().run(after)
    model = work.copy()
    model.forms = model.forms.changed("image_projection", Int8Form())
    with pytest.raises(ArtifactError, match="is quantized already"):
        Vocabulary().run(replace(work, model=model))
