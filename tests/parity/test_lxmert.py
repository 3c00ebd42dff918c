"""LXMERT against transformers with random weights, through files on disk, both ways."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, smooth_l1_loss

from polymodal.errors import ArtifactError
from polymodal.layers.skeleton import skeleton
from polymodal.models import published
from polymodal.models.heads import LinearHead, MlpHead
from polymodal.models.lxmert import lxmert, lxmert_tiny
from polymodal.models.pretraining import (
    MaskedRegionsHeadConfig,
    MaskedTextHeadConfig,
    MatchingHeadConfig,
    PretrainingHeadConfig,
)
from polymodal.models.published import Pretrained
from polymodal.preprocess import Preprocess
from tests.parity import joint, reference
from tests.parity.reference import TOLERANCE, largest, transformers

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]
NAMES = ["LxmertModel", "LxmertForPreTraining", "LxmertForQuestionAnswering"]


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def ask(theirs: Any, **more: Any) -> Any:
    text, regions = joint.text(), joint.regions()
    return theirs(
        input_ids=text.ids,
        attention_mask=text.mask.float(),
        visual_feats=regions.features,
        visual_pos=regions.boxes,
        visual_attention_mask=regions.mask.float(),
        **more,
    )


@torch.no_grad()
def test_states_agree_where_there_is_something(tmp_path: Path) -> None:
    theirs = joint.lxmert("LxmertModel")
    ours = published.load(reference.write(theirs, tmp_path)).model
    fused, expected = joint.run(ours, joint.regions()).fused, ask(theirs)
    text, image = joint.text().mask, joint.regions().mask
    assert largest(fused.tokens["text"].sequence[text], expected.language_output[text]) <= TOLERANCE
    assert largest(fused.tokens["image"].sequence[image], expected.vision_output[image]) <= TOLERANCE
    assert largest(fused.pooled, expected.pooled_output) <= TOLERANCE


@torch.no_grad()
def test_maps_are_their_attentions(tmp_path: Path) -> None:
    theirs = joint.lxmert("LxmertModel")
    ours = published.load(reference.write(theirs, tmp_path)).model
    maps = ours({"text": joint.text(), "image": joint.regions()}, maps=True).fused.maps
    for layer, expected in enumerate(ask(theirs, output_attentions=True).cross_encoder_attentions):
        real = joint.text().mask[:, None, :, None].expand_as(expected)
        assert largest(maps[f"text->image.{layer}"][real], expected[real]) <= TOLERANCE


@torch.no_grad()
def test_pre_training_losses_agree(tmp_path: Path) -> None:
    theirs = joint.lxmert("LxmertForPreTraining")
    pretrained = published.load(reference.write(theirs, tmp_path))
    assert pretrained.left_out == ()
    model: Any = pretrained.model
    draw = torch.Generator().manual_seed(9)
    matched, answers = torch.tensor([1, 0, 1]), torch.tensor([2, 0, 4])
    # 0 at padding, where theirs reads whatever stands there.
    sure = torch.rand(joint.ROWS, joint.REGIONS, generator=draw) * joint.regions().mask
    classes = torch.randint(0, 6, sure.shape, generator=draw)
    attributes = torch.randint(0, 4, sure.shape, generator=draw)
    features = torch.randn(*sure.shape, joint.FEATURES, generator=draw)
    out = joint.run(model, joint.regions())
    regions = model.pretraining["masked_regions"](out.fused.tokens["image"].sequence)
    seen = (
        cross_entropy(regions["classes"].flatten(0, 1), classes.flatten(), reduction="none"),
        cross_entropy(regions["attributes"].flatten(0, 1), attributes.flatten(), reduction="none"),
        smooth_l1_loss(regions["features"], features, reduction="none").mean(-1).flatten(),
    )
    ours = (
        joint.masked_text_loss(model, out)
        + cross_entropy(model.pretraining["matching"](out.fused.pooled), matched)
        + cross_entropy(out.predictions["answer"], answers)
        + sum(6.67 * (loss * sure.flatten()).mean() for loss in seen)
    )
    targets = {"obj": (classes, sure), "attr": (attributes, sure), "feat": (features, sure)}
    expected = ask(theirs, labels=joint.labels(), matched_label=matched, obj_labels=targets, ans=answers)
    assert ours.item() == pytest.approx(expected.loss.item(), abs=TOLERANCE)


@torch.no_grad()
def test_the_loss_of_answers_agrees(tmp_path: Path) -> None:
    theirs = joint.lxmert("LxmertForQuestionAnswering")
    pretrained = published.load(reference.write(theirs, tmp_path))
    assert pretrained.left_out == ()
    answers = torch.tensor([2, 0, 4])
    loss = cross_entropy(joint.run(pretrained.model, joint.regions()).predictions["answer"], answers)
    assert loss.item() == pytest.approx(ask(theirs, labels=answers).loss.item(), abs=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_back_to_the_same_file(name: str, tmp_path: Path) -> None:
    joint.check_way_back(joint.lxmert(name), tmp_path)


def test_files_of_airsplay_are_read(tmp_path: Path) -> None:
    theirs = joint.lxmert("LxmertForPreTraining")
    folder = reference.write(theirs, tmp_path)
    state = reference.weights(folder)
    old = {name.replace("lxmert.", "module.bert."): tensor for name, tensor in state.items()}
    old["cls.predictions.decoder.weight"] = state["lxmert.embeddings.word_embeddings.weight"]
    (folder / "model.safetensors").rename(folder / "current.safetensors")
    torch.save(old, folder / "pytorch_model.bin")
    found = published.load(folder).model.state_dict()
    (folder / "current.safetensors").rename(folder / "model.safetensors")
    expected = published.load(folder).model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_decoder_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = reference.write(joint.lxmert("LxmertForPreTraining"), tmp_path)
    state = reference.weights(folder)
    joint.rewrite(folder, state | {"cls.predictions.decoder.weight": torch.zeros(99, 24)})
    with pytest.raises(ArtifactError, match=r"decoder\.weight must be equal to embeddings\.word_embeddings\.weight"):
        published.load(folder)


def test_heads_that_bend_otherwise_are_left_out_and_named(tmp_path: Path) -> None:
    theirs = joint.lxmert("LxmertForPreTraining", hidden_act="relu")
    pretrained = published.load(reference.write(theirs, tmp_path))
    assert set(pretrained.config.pretraining) == {"matching"}
    assert {name.split(".")[0] for name in pretrained.left_out} == {"cls", "obj_predict_head"}
    expected = ask(theirs.lxmert).pooled_output
    assert largest(joint.run(pretrained.model, joint.regions()).fused.pooled, expected) <= TOLERANCE


def test_boxes_of_other_numbers_are_refused(tmp_path: Path) -> None:
    folder = reference.write(joint.lxmert("LxmertModel", visual_pos_dim=5), tmp_path)
    with pytest.raises(ArtifactError, match=r"visual_pos_dim must be 4 .*got 5"):
        published.load(folder)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    folder = reference.write(joint.lxmert("LxmertModel"), tmp_path)
    state = reference.weights(folder)
    del state["encoder.x_layers.1.visual_attention.att.key.bias"]
    joint.rewrite(folder, state)
    with pytest.raises(
        ArtifactError, match=r"1 weights are missing: encoder\.x_layers\.1\.visual_attention\.att\.key\.bias"
    ):
        published.load(folder)


def test_a_grid_in_place_of_regions_has_no_place_there(tmp_path: Path) -> None:
    model = lxmert_tiny().build()
    with pytest.raises(ArtifactError, match=r"inputs text, image \(bert, grid_regions\) and fusion crossmodal"):
        published.save(Pretrained(model, None, Preprocess()), tmp_path)


def test_heads_that_theirs_has_not_are_refused(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 9, "width": 8, "heads": 2, "text_layers": 1, "image_layers": 1}
    masked = {"masked_text": MaskedTextHeadConfig()}
    model = lxmert(**sizes, cross_layers=1, feature_width=4, pretraining=masked).build()
    with pytest.raises(ArtifactError, match=r"no such model with the heads masked_text; it has LxmertModel: none"):
        published.save(Pretrained(model, None, Preprocess()), tmp_path)


def test_a_head_of_another_kind_is_refused(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 9, "width": 8, "heads": 2, "text_layers": 1, "image_layers": 1}
    model = lxmert(
        **sizes, cross_layers=1, feature_width=4, pretraining={}, targets={"answer": LinearHead(outputs=3)}
    ).build()
    with pytest.raises(ArtifactError, match=r"LxmertForQuestionAnswering must have heads\.targets\.answer\.fc1\.bias"):
        published.save(Pretrained(model, None, Preprocess()), tmp_path)


@pytest.mark.parametrize(("heads", "count"), [("none", 207_936_768), ("all", 228_051_752)])
def test_the_published_size_has_as_many_weights_as_theirs(heads: str, count: int) -> None:
    """transformers' LxmertModel and LxmertForPreTraining of the default config."""
    config = lxmert(pretraining={})
    if heads == "all":
        outputs = {"classes": 1600, "attributes": 400, "features": 2048}
        pretraining: dict[str, PretrainingHeadConfig] = {
            "masked_text": MaskedTextHeadConfig(),
            "matching": MatchingHeadConfig(),
            "masked_regions": MaskedRegionsHeadConfig(input="image", outputs=outputs),
        }
        config = lxmert(targets={"answer": MlpHead(outputs=9500)}, pretraining=pretraining)
    model = skeleton(config.build)
    assert sum(one.numel() for name, one in model.named_parameters() if not name.startswith("missing.")) == count
