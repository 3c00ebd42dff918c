"""ViLT against transformers with random weights, through files on disk, both ways."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from polymodal.errors import ArtifactError
from polymodal.layers.skeleton import skeleton
from polymodal.models import published
from polymodal.models.published import Pretrained
from polymodal.models.vilt import vilt, vilt_tiny
from polymodal.preprocess import Preprocess
from tests.parity import joint, reference
from tests.parity.reference import TOLERANCE, largest, transformers

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]
NAMES = ["ViltModel", "ViltForMaskedLM", "ViltForQuestionAnswering", "ViltForImageAndTextRetrieval"]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def ask(theirs: Any, **more: Any) -> Any:
    text = joint.text()
    return theirs(input_ids=text.ids, attention_mask=text.mask.long(), pixel_values=reference.pixels(), **more)


@torch.no_grad()
def test_states_agree_where_there_is_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Theirs shuffles the patches, each with its position; so that they can be compared, here it does not.
    monkeypatch.setattr(torch, "multinomial", lambda weights, count: torch.arange(len(weights))[:count])
    theirs = joint.vilt("ViltModel")
    ours = published.load(reference.write(theirs, tmp_path)).model
    fused, expected = joint.run(ours, reference.pixels()).fused, ask(theirs)
    mask = joint.text().mask
    assert largest(fused.tokens["text"].sequence[mask], expected.last_hidden_state[:, :9][mask]) <= TOLERANCE
    assert largest(fused.tokens["image"].sequence, expected.last_hidden_state[:, 9:]) <= TOLERANCE
    assert largest(fused.pooled, expected.pooler_output) <= TOLERANCE


@torch.no_grad()
def test_maps_are_their_attentions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "multinomial", lambda weights, count: torch.arange(len(weights))[:count])
    theirs = joint.vilt("ViltModel")
    ours = published.load(reference.write(theirs, tmp_path)).model
    maps = ours({"text": joint.text(), "image": reference.pixels()}, maps=True).fused.maps
    for layer, expected in enumerate(ask(theirs, output_attentions=True).attentions):
        assert largest(maps[f"attention.{layer}"], expected) <= TOLERANCE


@torch.no_grad()
def test_the_loss_of_masked_words_agrees(tmp_path: Path) -> None:
    theirs = joint.vilt("ViltForMaskedLM")
    pretrained = published.load(reference.write(theirs, tmp_path))
    assert pretrained.left_out == ()
    loss = joint.masked_text_loss(pretrained.model, joint.run(pretrained.model, reference.pixels()))
    assert loss.item() == pytest.approx(ask(theirs, labels=joint.labels()).loss.item(), abs=TOLERANCE)


@torch.no_grad()
def test_the_loss_of_answers_agrees(tmp_path: Path) -> None:
    theirs = joint.vilt("ViltForQuestionAnswering")
    pretrained = published.load(reference.write(theirs, tmp_path))
    scores = torch.rand(joint.ROWS, joint.ANSWERS, generator=torch.Generator().manual_seed(2))
    logits = joint.run(pretrained.model, reference.pixels()).predictions["answer"]
    loss = binary_cross_entropy_with_logits(logits, scores) * joint.ANSWERS
    assert loss.item() == pytest.approx(ask(theirs, labels=scores).loss.item(), abs=TOLERANCE)


@torch.no_grad()
def test_scores_of_retrieval_agree(tmp_path: Path) -> None:
    theirs = joint.vilt("ViltForImageAndTextRetrieval")
    model: Any = published.load(reference.write(theirs, tmp_path)).model
    scores: Tensor = model.pretraining["matching"](joint.run(model, reference.pixels()).fused.pooled)
    assert largest(scores, ask(theirs).logits) <= TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_back_to_the_same_file(name: str, tmp_path: Path) -> None:
    joint.check_way_back(joint.vilt(name), tmp_path)


def test_answers_keep_their_names(tmp_path: Path) -> None:
    names = ["yes", "no", "红色", "2", "left"]
    theirs = joint.vilt("ViltForQuestionAnswering", id2label=dict(enumerate(names)), label2id={})
    pretrained = published.load(reference.write(theirs, tmp_path / "theirs"))
    assert pretrained.answers == tuple(names)
    published.save(pretrained, tmp_path / "ours")
    again = transformers.ViltForQuestionAnswering.from_pretrained(tmp_path / "ours").config
    assert [again.id2label[number] for number in range(5)] == names
    with pytest.raises(ArtifactError, match='head "answer" has 5 outputs, got 2 answers'):
        published.save(Pretrained(pretrained.model, None, Preprocess(), answers=("yes", "no")), tmp_path)


def test_files_of_transformers_4_are_read(tmp_path: Path) -> None:
    """They hold position_ids, the bias of masked words by itself, and the decoder that the table of words is."""
    folder = reference.write(joint.vilt("ViltForMaskedLM"), tmp_path)
    expected = published.load(folder).model.state_dict()
    state = reference.weights(folder)
    state["mlm_score.bias"] = state.pop("mlm_score.decoder.bias")
    state["mlm_score.decoder.weight"] = state["vilt.embeddings.text_embeddings.word_embeddings.weight"]
    state["vilt.embeddings.text_embeddings.position_ids"] = torch.arange(11)[None]
    joint.rewrite(folder, state)
    found = published.load(folder).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_second_picture_is_refused(tmp_path: Path) -> None:
    folder = reference.write(joint.vilt("ViltModel", modality_type_vocab_size=3), tmp_path)
    with pytest.raises(ArtifactError, match="modality_type_vocab_size must be 2, got 3"):
        published.load(folder)


def test_pictures_are_normalized_as_the_folder_says(tmp_path: Path) -> None:
    published.save(published.load(reference.write(joint.vilt("ViltModel"), tmp_path / "a")), tmp_path / "b")
    asked = json.loads((tmp_path / "b" / "preprocessor_config.json").read_text())
    assert (asked["image_processor_type"], asked["size"]) == ("ViltImageProcessor", {"shortest_edge": 24})
    image = published.load(tmp_path / "b").preprocess.image
    assert (image.size, image.fit, image.mean) == (24, "squash", (0.5, 0.5, 0.5))


def test_a_fusion_of_another_kind_is_refused(tmp_path: Path) -> None:
    config = vilt_tiny()
    config = config.model_copy(update={"fusion": config.fusion.model_copy(update={"norm": "post"}), "pretraining": {}})
    with pytest.raises(ArtifactError, match=r"ViltModel must have fusion\.norm\.bias, fusion\.norm\.weight"):
        published.save(Pretrained(config.build(), None, Preprocess()), tmp_path)


def test_a_setting_that_theirs_has_not_is_refused(tmp_path: Path) -> None:
    config = vilt_tiny()
    text = config.encoders["text"].model_copy(update={"eps": 1e-3})
    config = config.model_copy(update={"encoders": config.encoders | {"text": text}, "pretraining": {}})
    with pytest.raises(ArtifactError, match=r"ViltModel cannot have encoders\.text\.eps 0\.001"):
        published.save(Pretrained(config.build(), None, Preprocess()), tmp_path)


def test_the_published_size_has_as_many_weights_as_theirs() -> None:
    """transformers' ViltModel of the default config: 111,595,008."""
    model = skeleton(vilt(pretraining={}).build)
    ours = sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith("missing."))
    assert ours == 111_595_008
