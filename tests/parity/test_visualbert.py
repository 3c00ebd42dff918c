"""VisualBERT against transformers with random weights, through files on disk, both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from polymodal.errors import ArtifactError
from polymodal.layers.skeleton import skeleton
from polymodal.models import published
from polymodal.models.visualbert import visualbert
from tests.parity import joint, reference
from tests.parity.reference import TOLERANCE, largest, transformers

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def ask(theirs: Any, **more: Any) -> Any:
    text, regions = joint.text(), joint.regions()
    return theirs(
        input_ids=text.ids,
        attention_mask=text.mask.long(),
        visual_embeds=regions.features,
        visual_attention_mask=regions.mask.long(),
        **more,
    )


@torch.no_grad()
def test_states_agree_where_there_is_something(tmp_path: Path) -> None:
    theirs = joint.visualbert("VisualBertModel")
    ours = published.load(reference.write(theirs, tmp_path)).model
    fused, expected = joint.run(ours, joint.regions()).fused, ask(theirs)
    text, image = joint.text().mask, joint.regions().mask
    assert largest(fused.tokens["text"].sequence[text], expected.last_hidden_state[:, :9][text]) <= TOLERANCE
    assert largest(fused.tokens["image"].sequence[image], expected.last_hidden_state[:, 9:][image]) <= TOLERANCE
    assert largest(fused.pooled, expected.pooler_output) <= TOLERANCE


@torch.no_grad()
def test_pre_training_losses_agree(tmp_path: Path) -> None:
    theirs = joint.visualbert("VisualBertForPreTraining")
    pretrained = published.load(reference.write(theirs, tmp_path))
    assert pretrained.left_out == ()
    model: Any = pretrained.model
    out, matched = joint.run(model, joint.regions()), torch.tensor([1, 0, 1])
    matching = cross_entropy(model.pretraining["matching"](out.fused.pooled), matched)
    labels = torch.cat([joint.labels(), torch.full((joint.ROWS, joint.REGIONS), -100)], dim=1)
    expected = ask(theirs, labels=labels, sentence_image_labels=1 - matched).loss  # theirs: 0 where the two match
    assert (joint.masked_text_loss(model, out) + matching).item() == pytest.approx(expected.item(), abs=TOLERANCE)


@torch.no_grad()
def test_the_loss_of_answers_agrees(tmp_path: Path) -> None:
    theirs = joint.visualbert("VisualBertForQuestionAnswering")
    pretrained = published.load(reference.write(theirs, tmp_path))
    assert pretrained.left_out == ("pooler.dense.bias", "pooler.dense.weight")
    scores = torch.rand(joint.ROWS, joint.ANSWERS, generator=torch.Generator().manual_seed(2)).softmax(-1)
    found = joint.run(pretrained.model, joint.regions()).predictions["answer"].log_softmax(-1)
    expected = ask(theirs, labels=scores)
    assert largest(found, expected.logits) <= TOLERANCE
    assert kl_div(found, scores, reduction="batchmean").item() == pytest.approx(expected.loss.item(), abs=TOLERANCE)


@torch.no_grad()
def test_the_loss_of_reasoning_agrees(tmp_path: Path) -> None:
    """Its head is called as that of answers, and reads the pooler instead of a word."""
    theirs = joint.visualbert("VisualBertForVisualReasoning")
    pretrained = published.load(reference.write(theirs, tmp_path))
    assert pretrained.left_out == ()
    answers = torch.tensor([2, 0, 4])
    loss = cross_entropy(joint.run(pretrained.model, joint.regions()).predictions["answer"], answers)
    assert loss.item() == pytest.approx(ask(theirs, labels=answers).loss.item(), abs=TOLERANCE)


def test_heads_of_other_tasks_are_left_out_and_named(tmp_path: Path) -> None:
    pretrained = published.load(reference.write(joint.visualbert("VisualBertForMultipleChoice"), tmp_path))
    assert pretrained.left_out == ("cls.bias", "cls.weight")
    assert not pretrained.config.heads.targets


@pytest.mark.parametrize("name", ["VisualBertModel", "VisualBertForPreTraining", "VisualBertForVisualReasoning"])
def test_it_goes_back_to_the_same_file(name: str, tmp_path: Path) -> None:
    joint.check_way_back(joint.visualbert(name), tmp_path)


def test_the_model_for_answers_goes_back_with_a_pooler_of_zeros(tmp_path: Path) -> None:
    joint.check_way_back(joint.visualbert("VisualBertForQuestionAnswering"), tmp_path, unread="pooler.")


def test_regions_past_the_words_transformer_are_refused(tmp_path: Path) -> None:
    folder = reference.write(joint.visualbert("VisualBertModel", bypass_transformer=True), tmp_path)
    with pytest.raises(ArtifactError, match="bypass_transformer must be false, got true"):
        published.load(folder)


def test_sizes_that_do_not_fit_are_an_error_of_the_folder(tmp_path: Path) -> None:
    folder = reference.write(joint.visualbert("VisualBertModel"), tmp_path)
    settings = (folder / "config.json").read_text().replace('"num_attention_heads": 3', '"num_attention_heads": 5')
    (folder / "config.json").write_text(settings)
    with pytest.raises(ArtifactError, match=r"not supported: .*multiple of heads \(5\)"):
        published.load(folder)


def test_the_published_size_has_as_many_weights_as_theirs() -> None:
    """transformers' VisualBertModel with regions of 2048 numbers."""
    model = skeleton(visualbert(pretraining={}).build)
    ours = sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith("missing."))
    with torch.device("meta"):
        theirs = transformers.VisualBertModel(transformers.VisualBertConfig(visual_embedding_dim=2048))
    assert ours == sum(weight.numel() for weight in theirs.parameters())
