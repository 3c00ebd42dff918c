"""The model, tokenizer and preprocessing that a recipe asks for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from polymodal import artifact
from polymodal.data.manifest import Manifest
from polymodal.errors import ArtifactError, ConfigError
from polymodal.features import Features
from polymodal.layers.lora import apply_lora, lora_parameters
from polymodal.layers.transformer import Transformer
from polymodal.models import published
from polymodal.models.clip import Clip, ClipConfig
from polymodal.models.ensemble import ClipEnsemble, Ensemble
from polymodal.models.published import Pretrained
from polymodal.objectives import Objective
from polymodal.preprocess import ImagePreprocess, Preprocess, TextPreprocess
from polymodal.text import Tokenizer, train_tokenizer
from polymodal.train.closed_form import with_projections
from polymodal.train.optimizer import freeze
from polymodal.train.recipe import (
    LearnedTokenizer,
    LoraConfig,
    NewModel,
    Recipe,
    TokenizerConfig,
    TrainerConfig,
)


class Built(NamedTuple):
    model: Clip
    tokenizer: Tokenizer
    preprocess: Preprocess


def build(
    recipe: Recipe, captions: Callable[[], Iterator[str]], pictures: int, tokenizer: Tokenizer | None = None
) -> Built:
    """What `recipe` names, with the seed's random weights where it names no trained ones.

    Args:
        captions: of the training rows; asked for when the tokenizer is to be learned.
        pictures: how many different ones the training rows show.
        tokenizer: one that was learned for this run before.

    Raises:
        ConfigError: parts do not fit each other.
        ArtifactError: a source of weights or of a tokenizer cannot be read.
    """
    if isinstance(recipe.model, NewModel):
        return _new(recipe, recipe.model, captions, pictures, tokenizer)
    found = load_pretrained(recipe.model.source)
    if not isinstance(found.model, Clip):
        kind = type(found.model).__name__
        raise ConfigError(
            f"model.source: {recipe.model.source} is a {kind}, one tower; give it as model.init.image or .text"
        )
    own = choose_tokenizer(recipe.tokenizer, found.tokenizer, captions, tokenizer)
    preprocess = recipe.preprocess or found.preprocess
    return _checked(Built(found.model, own, preprocess))


def load_pretrained(source: str) -> Pretrained:
    """An artifact, or a released checkpoint."""
    folder = Path(source)
    if (folder / "artifact").is_dir():  # a run
        folder = folder / "artifact"
    if artifact.is_artifact(folder):
        found = artifact.load(folder)
        if isinstance(found.model, Ensemble | ClipEnsemble):
            raise ConfigError(f'"{source}" is an ensemble, which has no training; start from one of its members')
        if isinstance(found.preprocess, Features):
            return Pretrained(found.model, found.tokenizer, Preprocess(), features=found.preprocess)
        return Pretrained(found.model, found.tokenizer, found.preprocess)
    return published.load(source)


def _new(
    recipe: Recipe,
    model: NewModel,
    captions: Callable[[], Iterator[str]],
    pictures: int,
    tokenizer: Tokenizer | None,
) -> Built:
    image = _tower(model.init.image, "image", levels=model.init.image_levels)
    text = _tower(model.init.text, "text")
    own = choose_tokenizer(recipe.tokenizer, text.tokenizer if text else None, captions, tokenizer)
    sizes = model.sizes().to_dict()
    if image:
        sizes["image"] = image.model.config.to_dict()
    if text:
        sizes["text"] = text.model.config.to_dict()
    elif isinstance(recipe.tokenizer, LearnedTokenizer):
        sizes["text"]["vocab_size"] = own.vocab_size  # a small corpus gives fewer than were asked for
    config = ClipConfig.parse(sizes, "model")
    if model.init.closed_form is not None:
        config = with_projections(config, model.init.closed_form, pictures)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.trainer.seed)
        built = config.build()
    for tower, given in ((built.image_encoder, image), (built.text_encoder, text)):
        if given:
            tower.load_state_dict(given.model.state_dict())
    return _checked(Built(built, own, recipe.preprocess or _preprocess(config, image, text)))


def _tower(source: str | None, side: str, levels: bool = False) -> Pretrained | None:
    """A single tower with what belongs to it; of a two-tower source, the asked one."""
    if source is None:
        return None
    found = published.load(source, levels=True) if levels else load_pretrained(source)
    tower: Any = found.model
    if isinstance(tower, Clip):
        tower = tower.image_encoder if side == "image" else tower.text_encoder
    reads_text = hasattr(tower.config, "vocab_size")
    if reads_text != (side == "text"):
        raise ConfigError(f"model.init.{side}: {source} is a {type(tower).__name__}, which reads no {side}")
    return Pretrained(tower, found.tokenizer, found.preprocess)


def _preprocess(config: ClipConfig, image: Pretrained | None, text: Pretrained | None) -> Preprocess:
    longest = min(TextPreprocess().max_length, getattr(config.text, "max_length", 10**9))
    return Preprocess(
        image=image.preprocess.image if image else ImagePreprocess(size=config.image.image_size, decoding="fast"),
        text=text.preprocess.text if text else TextPreprocess(max_length=longest),
    )


def choose_tokenizer(
    config: TokenizerConfig, of_model: Tokenizer | None, texts: Callable[[], Iterable[str]], learned: Tokenizer | None
) -> Tokenizer:
    """The tokenizer that a recipe asks for.

    Args:
        of_model: that of the trained weights which are started from.
        texts: of the training rows; asked for when it is to be learned.
        learned: one that was learned for this run before.

    Raises:
        ConfigError: one is to be learned for weights that know another, or the weights have none.
        ArtifactError: the source that is named has none.
    """
    if isinstance(config, LearnedTokenizer):
        if of_model is not None:
            raise ConfigError(
                "tokenizer: a learned one gives its ids to other words than the trained text tower knows; "
                "set tokenizer.kind=pretrained"
            )
        return learned or train_tokenizer(texts(), config.algorithm, config.vocab_size, config.lowercase)
    if config.source is None:
        if of_model is None:
            raise ConfigError("tokenizer: the model's source has none; set tokenizer.source to a folder or name of one")
        return of_model
    folder = Path(config.source)
    if folder.is_dir():
        return Tokenizer.load(folder)
    found = published.load(config.source).tokenizer
    if found is None:
        raise ArtifactError(f"tokenizer.source: {config.source} has no tokenizer")
    return found


def _checked(built: Built) -> Built:
    text, size = built.model.config.text, built.tokenizer.vocab_size
    if size > text.vocab_size:
        raise ConfigError(
            f"model.text.vocab_size must be at least the tokenizer's {size}, got {text.vocab_size}; set it, or learn a "
            "smaller vocabulary (tokenizer.vocab_size)"
        )
    longest, asked = getattr(text, "max_length", None), built.preprocess.text.max_length
    if longest is not None and asked > longest:
        raise ConfigError(
            f"preprocess.text.max_length must be at most model.text.max_length, which is {longest}, got {asked}"
        )
    return built


def choose_trained(model: Clip, objectives: Sequence[Objective], config: TrainerConfig) -> None:
    """Freeze, adapt and prepare the model as the trainer's settings say.

    Raises:
        ConfigError: a pattern covers nothing, an objective needs what the model lacks, or nothing is left to train.
    """
    reads = frozenset[str]().union(*(objective.reads for objective in objectives))
    if "bias" in reads and model.bias is None:
        raise ConfigError("objective siglip: the model has no bias for its logits; set model.bias=-10")
    if "scale" not in reads:
        model.log_scale.requires_grad_(False)
    if "bias" not in reads and model.bias is not None:
        model.bias.requires_grad_(False)
    prepare_weights(model, config, tower=1)


def prepare_weights(model: nn.Module, config: TrainerConfig, tower: int) -> None:
    """Freeze, adapt and recompute as the trainer's settings say.

    Args:
        tower: how many steps of a weight's name say which tower it is of: 1 of `text_encoder`, 2 of `encoders.text`.

    Raises:
        ConfigError: a pattern covers nothing, there is nothing to recompute, or nothing is left to train.
    """
    freeze(model, config.freeze)
    if config.lora is not None:
        _adapt(model, config.lora, tower)
    if config.gradient_checkpointing:
        stacks = [module for module in model.modules() if isinstance(module, Transformer)]
        if not stacks:
            raise ConfigError("trainer.gradient_checkpointing: the model has no transformer; lower trainer.batch_size")
        for stack in stacks:
            stack.checkpoint = True
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ConfigError("trainer.freeze leaves nothing to train")


def _adapt(model: nn.Module, config: LoraConfig, tower: int) -> None:
    names = apply_lora(model, config.rank, config.alpha, config.targets)
    for part in {".".join(name.split(".")[:tower]) for name in names}:
        module = model.get_submodule(part)
        module.requires_grad_(False)
        for weight in lora_parameters(module):
            weight.requires_grad_(True)


def resolve_precision(asked: str, accelerator: str) -> str:
    """fp32 or bf16; `auto` is bf16 where the processor itself computes in it. Elsewhere it is emulated, and slower."""
    if asked != "auto":
        return asked
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"
    return "fp32"


def training_captions(manifest: Manifest) -> Iterator[str]:
    """Every caption of every row."""
    for row in range(len(manifest)):
        yield from manifest.captions(row)
