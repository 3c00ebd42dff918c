"""`polymodal models`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from polymodal.models.published import Pretrained


def run(
    name: Annotated[str | None, typer.Argument(help="A model's name or a checkpoint. Leave out: list.")] = None,
    save: Annotated[Path | None, typer.Option(help="Write the checkpoint into this folder.")] = None,
    layout: Annotated[Literal["hf", "openai", "vilbert"], typer.Option(help="How to write it.")] = "hf",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models and recipes known by name; show a model; read or convert a released checkpoint.

    A checkpoint is a folder or file, `hub:organization/name[@revision]`, or `pip:name` (weights that a Python package
    brings: `pip:all-minilm-l6-v2`, `pip:efficientnet-lite0`). Layouts that are read: Hugging Face CLIP, SigLIP,
    Chinese-CLIP, ViT, BERT (sentence-transformers too) and the encoder of Whisper, OpenAI's CLIP, vilbert_beta's
    ViLBERT, torchvision's and timm's ResNets, EfficientNet-Lite.

    **Examples**

    - `polymodal models`: every model with its size.
    - `polymodal models clip-vit-b32`: its config, to start a recipe from.
    - `polymodal models hub:openai/clip-vit-base-patch32`: what a checkpoint is.
    - `polymodal models ViT-B-32.safetensors --save clip-hf`: OpenAI's layout to Hugging Face's.
    - `polymodal models clip-hf --save clip-openai --layout openai`: and back.
    """
    from polymodal.cli.output import print_json
    from polymodal.errors import ConfigError
    from polymodal.models.names import ENCODERS, JOINT, MODELS, config

    if name is None:
        if save is not None:
            raise ConfigError("models: --save needs a checkpoint to read")
        _list(json)
    elif name in MODELS or name in JOINT or name in ENCODERS:
        if save is not None:
            raise ConfigError(f'models: "{name}" is an architecture without weights; --save needs a checkpoint to read')
        shown = (ENCODERS[name] if name in ENCODERS else config(name)).to_dict()
        print_json(shown) if json else _print_yaml(shown)
    else:
        _checkpoint(name, save, layout, json)


def _list(json: bool) -> None:
    from polymodal.cli.output import print_json, print_table
    from polymodal.models.names import ENCODERS, JOINT, MODELS, sizes
    from polymodal.train.recipe import recipe_names

    rows = [sizes(name) for name in (*MODELS, *JOINT, *ENCODERS)]
    if json:
        print_json({"models": rows, "recipes": recipe_names()})
        return
    columns = ("name", "image", "text", "image_size", "max_length", "width", "parameters")
    print_table(
        ("name", "image", "text", "pixels", "tokens", "width", "weights"),
        [[_shown(row[column]) for column in columns] for row in rows],
    )
    print(f"recipes for `polymodal fit`: {', '.join(recipe_names())}")


def _shown(value: str | int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value / 1e6:,.1f} M" if value >= 1e6 else str(value)


def _print_yaml(data: dict[str, Any]) -> None:
    import yaml

    print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), end="")


def _checkpoint(source: str, save: Path | None, layout: Literal["hf", "openai", "vilbert"], json: bool) -> None:
    from polymodal.cli.output import print_json, say
    from polymodal.models import names, published

    looks_like_a_source = ":" in source or "/" in source or "\\" in source or Path(source).exists()
    if not looks_like_a_source:
        names.config(source)  # says which name is near
    pretrained = published.load(source)
    shown = _described(pretrained)
    if save is not None:
        published.save(pretrained, save, layout)
        say(f"{save}: written in layout {layout}")
        shown["saved"] = str(save)
    print_json(shown) if json else _print_yaml(shown)


def _described(pretrained: "Pretrained") -> dict[str, Any]:
    tokenizer = pretrained.tokenizer
    return {
        "model": type(pretrained.model).__name__,
        "parameters": sum(parameter.numel() for parameter in pretrained.model.parameters()),
        "vocabulary": None if tokenizer is None else tokenizer.vocab_size,
        "left_out": list(pretrained.left_out),
        "preprocess": pretrained.preprocess.to_dict(),
        "config": pretrained.config.to_dict(),
    }
