"""ViLBERT against an oracle in float64, against numbers of the released code, and in the layout of its checkpoints."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor

from polymodal.encoders.regions import RegionsConfig
from polymodal.errors import ArtifactError
from polymodal.features import Features
from polymodal.layers.skeleton import skeleton
from polymodal.models import published
from polymodal.models.heads import HeadsConfig, LinearHead
from polymodal.models.multimodal import Multimodal, MultimodalConfig
from polymodal.models.published import Pretrained
from polymodal.models.published import vilbert as layout
from polymodal.models.vilbert import vilbert_base, vilbert_tiny
from polymodal.objectives.joint import JointObjectiveConfig, JointStep, build_objectives
from polymodal.preprocess import Preprocess
from polymodal.types import Batch, Regions, Text
from tests.models import vilbert_oracle as oracle
from tests.objectives import joint_toy

SMALL: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "max_position_embeddings": 6,
    "type_vocab_size": 2,
    "v_feature_size": 6,
    "v_target_size": 5,
    "v_hidden_size": 12,
    "v_num_hidden_layers": 3,
    "v_num_attention_heads": 3,
    "v_intermediate_size": 10,
    "v_hidden_act": "gelu",
    "bi_hidden_size": 16,
    "bi_num_attention_heads": 4,
    "v_biattention_id": [1, 2],
    "t_biattention_id": [2, 3],
}
PUBLISHED: dict[str, Any] = SMALL | {  # config/bert_base_6layer_6conect.json
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "v_feature_size": 2048,
    "v_target_size": 1601,
    "v_hidden_size": 1024,
    "v_num_hidden_layers": 6,
    "v_num_attention_heads": 8,
    "v_intermediate_size": 1024,
    "bi_hidden_size": 1024,
    "bi_num_attention_heads": 8,
    "v_biattention_id": [0, 1, 2, 3, 4, 5],
    "t_biattention_id": [6, 7, 8, 9, 10, 11],
    "pooling_method": "mul",
}
SCHEDULES = {
    "layers on both sides": {},
    "connections at once": {"v_biattention_id": [0, 0], "t_biattention_id": [1, 4], "num_hidden_layers": 5},
    "one connection, then layers": {"v_biattention_id": [0], "t_biattention_id": [1]},
    "sum": {"fusion_method": "sum"},
}
IDS = [[2, 5, 7, 3], [2, 9, 3]]
FEATURES = np.sin(0.9 * np.arange(1, 37)).reshape(2, 3, 6)
BOXES = np.array(
    [
        [[0, 0, 0.5, 0.5], [0.25, 0.5, 1, 0.75], [0.1, 0.2, 0.3, 0.4]],
        [[0, 0, 1, 0.5], [0.5, 0.25, 0.75, 1], [0, 0, 0, 0]],
    ]
)
REAL = [3, 2]  # regions of each picture


def inputs() -> dict[str, Any]:
    """Two pairs, padded on both sides; what stands in the padding is loud, so that one hears it leak."""
    ids = torch.tensor([row + [11] * (4 - len(row)) for row in IDS])
    features = torch.from_numpy(FEATURES).float()
    features[1, 2] = 1e4
    return {
        "text": Text(ids, torch.tensor([[place < len(row) for place in range(4)] for row in IDS])),
        "image": Regions(
            features,
            torch.from_numpy(BOXES).float(),
            torch.tensor([[place < real for place in range(3)] for real in REAL]),
        ),
    }


def weights_of(settings: dict[str, Any], noise: int | None = None) -> dict[str, oracle.Array]:
    """By their names: filled by a rule, or at random."""
    weights = oracle.filled(oracle.shapes(settings), 0.4)
    if noise is not None:
        draw = np.random.default_rng(noise)
        for name, values in weights.items():
            gain = "LayerNorm" in name and name.endswith("weight")
            weights[name] = draw.normal(float(gain), 0.3, values.shape)
    weights["bert.embeddings.word_embeddings.weight"] = weights["cls.predictions.decoder.weight"]
    return weights


def write(folder: Path, settings: dict[str, Any], weights: dict[str, oracle.Array]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    state = {name: torch.from_numpy(values).float() for name, values in weights.items()}
    torch.save(state, folder / "pytorch_model.bin")
    return folder


def answers(settings: dict[str, Any], weights: dict[str, oracle.Array]) -> list[oracle.Answer]:
    return [
        oracle.vilbert(settings, weights, IDS[row], FEATURES[row, : REAL[row]], BOXES[row, : REAL[row]])
        for row in range(2)
    ]


def loaded(folder: Path) -> Multimodal:
    model = published.load(folder).model
    assert isinstance(model, Multimodal)
    return model


def close(ours: Tensor, theirs: oracle.Array) -> None:
    torch.testing.assert_close(ours.double(), torch.from_numpy(theirs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", SCHEDULES.values(), ids=SCHEDULES.keys())
@torch.no_grad()
def test_it_is_what_the_formulas_say(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = SMALL | changes
    weights = weights_of(settings, noise=3)
    model = loaded(write(tmp_path, settings, weights))
    out = model(inputs(), maps=True)
    text, image = out.fused.tokens["text"].sequence, out.fused.tokens["image"].sequence
    words = model.pretraining["masked_text"](text)
    regions = model.pretraining["masked_regions"](image)["classes"]
    matching = model.pretraining["matching"](out.fused.pooled)
    for row, wanted in enumerate(answers(settings, weights)):
        length, real = len(IDS[row]), 1 + REAL[row]  # the global region in front
        close(text[row, :length], wanted.text)
        close(image[row, :real], wanted.image)
        close(out.fused.pooled[row], wanted.pooled)
        close(words[row, :length], wanted.words)
        close(regions[row, :real], wanted.regions)
        close(matching[row], wanted.alignment[::-1].copy())  # theirs: 0 is "belongs together"; ours: 1
        for number, (forth, back) in enumerate(wanted.maps):
            close(out.fused.maps[f"text->image.{number}"][row, :, :length, :real], forth)
            close(out.fused.maps[f"image->text.{number}"][row, :, :real, :length], back)


@torch.no_grad()
def test_it_gives_the_numbers_of_the_released_code(tmp_path: Path) -> None:
    """What jiasenlu/vilbert_beta at f0c9a2b, BertForMultiModalPreTraining, gave for these weights and inputs."""
    model = loaded(write(tmp_path, SMALL, weights_of(SMALL)))
    out = model(inputs(), maps=True)
    text, image = out.fused.tokens["text"].sequence, out.fused.tokens["image"].sequence

    def same(ours: Tensor, *theirs: float) -> None:
        torch.testing.assert_close(ours, torch.tensor(theirs), atol=5e-6, rtol=1e-5)

    same(text[0, 2], -0.373567, -0.624920, -0.262730, 1.580379, 1.711726, 0.802364, 0.384583, -1.426262)
    same(text[1, 0], -1.302040, 0.106918, 1.811478, 0.859757, -1.017377, -0.886116, 0.161529, 0.632154)
    same(image[0, 3, :6], 0.752474, 0.377347, -0.203879, -1.388815, -2.258757, -1.346246)
    same(image[1, 0, :6], 0.752462, 0.249228, 0.094401, -1.022022, -2.442676, -1.348224)
    same(out.fused.pooled[0], *[0.0] * 6, 1.452820, *[0.0] * 8, 1.415683)
    same(out.fused.pooled[1], *[0.0] * 6, 1.464815, *[0.0] * 8, 1.397949)
    words = model.pretraining["masked_text"](text[:1])
    same(words[0, 0, :6], -0.082015, 1.056457, 1.712152, 1.593052, 0.757867, -0.412788)
    regions = model.pretraining["masked_regions"](image[1, 2])["classes"]
    same(regions, -0.049305, 0.500459, -0.361548, 0.616415, 0.746516)
    same(model.pretraining["matching"](out.fused.pooled)[1], 0.688741, 0.863651)  # theirs: (0.863651, 0.688741)
    same(out.fused.maps["text->image.0"][1, 0, 1], 0.325705, 0.346004, 0.328291, 0.0)
    same(out.fused.maps["image->text.1"][1, 0, 2], 0.174606, 0.650805, 0.174589, 0.0)


@torch.no_grad()
def test_maps_are_shares_of_attention_and_only_made_when_asked_for(tmp_path: Path) -> None:
    model = loaded(write(tmp_path, SMALL, weights_of(SMALL, noise=1)))
    assert model(inputs()).fused.maps == {}
    out = model(inputs(), maps=True)
    assert set(out.fused.maps) == {"text->image.0", "image->text.0", "text->image.1", "image->text.1"}
    for name, looks in out.fused.maps.items():
        assert looks.shape == (2, 4, 4, 4)  # 4 tokens, 4 regions with the global one
        torch.testing.assert_close(looks.sum(-1), torch.ones(2, 4, 4))
        assert (looks[1, :, :, 3] == 0).all(), name  # padding on either side
    torch.testing.assert_close(out.fused.pooled, model(inputs()).fused.pooled, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_what_a_stream_finds_in_the_other_goes_on_in_itself(tmp_path: Path) -> None:
    """The source's attention gives the contexts in the order of their values: one swap forgotten, and this fails."""
    settings = SMALL | {"v_biattention_id": [2], "t_biattention_id": [3]}
    weights = weights_of(settings, noise=2)
    before = loaded(write(tmp_path / "before", settings, weights))(inputs()).fused.tokens
    weights["bert.encoder.c_layer.0.biattention.value1.weight"] *= 2  # what regions say
    after = loaded(write(tmp_path / "after", settings, weights))(inputs()).fused.tokens
    assert not torch.allclose(before["text"].sequence, after["text"].sequence)
    assert torch.equal(before["image"].sequence, after["image"].sequence)


@torch.no_grad()
def test_the_poolers_bend_by_relu(tmp_path: Path) -> None:
    weights = weights_of(SMALL, noise=2)
    pooled = loaded(write(tmp_path, SMALL, weights))(inputs()).fused.pooled
    assert (pooled >= 0).all()
    assert (pooled == 0).any()
    assert (pooled > 1).any()  # a product of two tanh would not get there


def test_the_published_model_has_its_names_and_its_size() -> None:
    config = layout.config_of(PUBLISHED, "published")
    names = {name for entry in layout.entries(config) for name in entry.theirs} - set(layout.MISSING)
    shapes = oracle.shapes(PUBLISHED)
    dead = {name for name in shapes if "q_dense" in name}
    assert len(shapes) == 533
    assert set(shapes) == names | dead | {"cls.predictions.decoder.weight"}
    ours = sum(parameter.numel() for parameter in skeleton(config.build).parameters())
    absent = 768 + 1024  # learned tokens, which theirs does not have
    unread = sum(int(np.prod(shapes[name])) for name in dead)
    assert ours - absent + unread == 250_044_029
    assert config == vilbert_base()


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    weights = weights_of(SMALL, noise=4)
    pretrained = published.load(write(tmp_path / "theirs", SMALL, weights))
    assert pretrained.left_out == tuple(sorted(name for name in weights if "q_dense" in name))
    published.save(pretrained, tmp_path / "ours", "vilbert")
    again = load_file(tmp_path / "ours" / "model.safetensors")
    assert again.keys() == weights.keys()
    for name, values in weights.items():
        wanted = torch.zeros(values.shape) if "q_dense" in name else torch.from_numpy(values).float()
        assert torch.equal(again[name], wanted), name
    back = published.load(tmp_path / "ours")
    assert back.config == pretrained.config
    state = pretrained.model.state_dict()
    assert all(torch.equal(values, state[name]) for name, values in back.model.state_dict().items())


@pytest.mark.parametrize("changes", [*SCHEDULES.values(), {"predict_feature": True, "v_target_size": 6}, PUBLISHED])
def test_settings_come_back_as_they_were(changes: dict[str, Any]) -> None:
    config = layout.config_of(SMALL | changes, "here")
    written = layout.settings_of(config)
    assert layout.config_of(written, "there") == config
    assert {key: written[key] for key in SMALL} == {key: (SMALL | changes)[key] for key in SMALL}


def test_heads_of_tasks_are_left_out_by_name(tmp_path: Path) -> None:
    """vilbert-multi-task adds heads and a table of tasks; its file is called otherwise."""
    extra = {
        "bert.embeddings.task_embeddings.weight": (20, 8),
        **oracle.layer("vil_prediction.logit_fc.0", 16, 32),
        **oracle.layer("vil_prediction_gqa.logit_fc.3", 32, 9),
        **oracle.layer("vil_binary_prediction.logit_fc.3", 32, 2),
        **oracle.layer("vil_tri_prediction", 16, 3),
        **oracle.layer("vil_logit", 16, 1),
        **oracle.layer("vision_logit", 12, 1),
        **oracle.layer("linguisic_logit", 8, 1),
    }
    weights = weights_of(SMALL) | {name: np.ones(shape) for name, shape in extra.items()}
    folder = write(tmp_path, SMALL | {"visual_target": 0, "task_specific_tokens": True}, weights)
    (folder / "pytorch_model.bin").rename(folder / "multi_task_model.bin")
    pretrained = published.load(folder)
    assert set(pretrained.left_out) == {*extra, *(name for name in weights if "q_dense" in name)}


def broken(tmp_path: Path, changes: dict[str, Any], **weights: Any) -> Path:
    return write(tmp_path, SMALL | changes, weights_of(SMALL) | weights)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"1 weights have no place in this config: bert\.extra"):
        published.load(broken(tmp_path, {}, **{"bert.extra": np.ones(2)}))
    with pytest.raises(ArtifactError, match=r"cls\.predictions\.decoder\.weight must be equal to .*word_embeddings"):
        published.load(broken(tmp_path, {}, **{"cls.predictions.decoder.weight": np.ones((20, 8))}))
    with pytest.raises(ArtifactError, match=r"v_layer\.2.* must give|weights are missing.*v_layer\.3"):
        published.load(broken(tmp_path, {"v_num_hidden_layers": 4}))
    with pytest.raises(ArtifactError, match=r"must give \(12, 6\).*got \(12, 7\)"):
        published.load(broken(tmp_path, {}, **{"bert.v_embeddings.image_embeddings.weight": np.ones((12, 7))}))


def test_settings_that_ask_for_another_model_are_refused() -> None:
    incomplete = {key: value for key, value in SMALL.items() if key != "v_num_hidden_layers"}
    with pytest.raises(ArtifactError, match=r"here: the settings lack v_num_hidden_layers; give the JSON of"):
        layout.config_of(incomplete, "here")
    with pytest.raises(ArtifactError, match=r"here: with_coattention must be one of \(True,\), got False"):
        layout.config_of(SMALL | {"with_coattention": False}, "here")
    with pytest.raises(ArtifactError, match=r"hidden_act must be one of .*got 'swish'"):
        layout.config_of(SMALL | {"hidden_act": "swish"}, "here")
    with pytest.raises(ArtifactError, match=r"t_biattention_id must have a number for each of v_biattention_id"):
        layout.config_of(SMALL | {"t_biattention_id": [1]}, "here")
    with pytest.raises(ArtifactError, match=r"v_biattention_id must rise from 0 to less than .*\(3\), got \[2, 1\]"):
        layout.config_of(SMALL | {"v_biattention_id": [2, 1]}, "here")
    with pytest.raises(ArtifactError, match=r"not supported: .*multiple of heads \(3\), got 16"):
        layout.config_of(SMALL | {"bi_num_attention_heads": 3}, "here")


def test_a_model_that_has_no_place_in_their_layout_is_not_written(tmp_path: Path) -> None:
    def save(config: MultimodalConfig) -> None:
        published.save(Pretrained(config.build(), None, Preprocess()), tmp_path / "x", "vilbert")

    config = layout.config_of(SMALL, "here")
    image = config.encoders["image"]
    assert isinstance(image, RegionsConfig)
    heads = HeadsConfig(targets={"answer": LinearHead(outputs=3)})
    with pytest.raises(ArtifactError, match=r"cannot have this model's heads\.targets$"):
        save(config.model_copy(update={"heads": heads}))
    mean = image.model_copy(update={"global_region": False})
    with pytest.raises(ArtifactError, match=r"cannot have this model's encoders\.image$"):
        save(config.model_copy(update={"encoders": config.encoders | {"image": mean}}))
    with pytest.raises(ArtifactError, match=r'layout vilbert: wanted encoders text .*image \(kind "regions"\)'):
        save(vilbert_tiny(vocab_size=20, image_size=16))
    assert not (tmp_path / "x").exists()


def pretraining_step(config: MultimodalConfig, features: dict[str, Any], image: Any, *losses: dict[str, Any]) -> Any:
    """The model, with gradients, and the log of one step of pre-training on six pairs."""
    known = Features.parse({"inputs": features | {"text": {"kind": "text", "columns": ["text"]}}}, "features")
    parsed = [TypeAdapter(JointObjectiveConfig).validate_python(loss) for loss in losses]
    joint = build_objectives(parsed, known, {"text": joint_toy.tokenizer()})
    torch.manual_seed(0)
    model: Multimodal = config.build()
    there = torch.ones(6, dtype=torch.bool)
    given = {"text": joint_toy.text(), "image": image}
    batch = Batch(given, dict.fromkeys(given, there), {}, {}, torch.arange(6))
    result = joint(JointStep(model, batch, torch.Generator().manual_seed(5)))
    result.loss.backward()
    return model, result.log


def silent(model: Multimodal) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}


MASKED_TEXT = {"kind": "masked_text", "rate": 0.5}
MATCHING = {"kind": "matching"}


def test_pretraining_of_regions_reaches_every_weight() -> None:
    config = layout.config_of(SMALL | {"vocab_size": 300, "max_position_embeddings": 12, "v_feature_size": 5}, "here")
    features = {"image": {"kind": "regions", "column": "regions", "width": 5, "classes": 5}}
    losses = (MASKED_TEXT, {"kind": "masked_regions", "input": "image", "rate": 0.5}, MATCHING)
    model, log = pretraining_step(config, features, joint_toy.regions(classes=5), *losses)
    assert {"masked_text", "masked_regions", "matching"} <= log.keys()
    assert all(torch.isfinite(value) for value in log.values())
    assert silent(model) == {"missing.learned.text", "missing.learned.image"}


def test_the_tiny_one_learns_from_pixels() -> None:
    features = {"image": {"kind": "image", "column": "image"}}
    losses = (MASKED_TEXT, {"kind": "masked_image"}, MATCHING)
    config = vilbert_tiny(vocab_size=300, image_size=16)
    model, log = pretraining_step(config, features, joint_toy.pixels(), *losses)
    assert all(torch.isfinite(value) for value in log.values())
    assert silent(model) == {"missing.learned.text", "missing.learned.image"}
    with torch.no_grad():
        out = model.eval()({"text": joint_toy.text(), "image": joint_toy.pixels()}, maps=True)
    assert out.fused.tokens["image"].sequence.shape == (6, 1 + 4, 128)  # a global region, then 2 x 2 cells
    assert out.fused.maps["text->image.1"].shape[-1] == 5
