"""The model, tokenizer and objectives that a recipe with several inputs asks for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from polymodal.config import Config
from polymodal.data.fit_features import InputPlan
from polymodal.encoders import EncoderConfig
from polymodal.encoders.image import OwnImageEncoder
from polymodal.encoders.regions import GridRegionsConfig, GridRegionsEncoder
from polymodal.errors import ConfigError, did_you_mean
from polymodal.features import (
    FIRST,
    AudioInput,
    Features,
    ImageInput,
    InputConfig,
    RecordInput,
    SeriesInput,
    TextInput,
)
from polymodal.models.heads import HeadConfig, HeadsConfig, LinearHead, TokenLinearHead
from polymodal.models.multimodal import Multimodal, MultimodalConfig
from polymodal.models.published import Pretrained
from polymodal.objectives.joint import Joint, build_objectives
from polymodal.text import Tokenizer
from polymodal.train.build import choose_tokenizer, load_pretrained
from polymodal.train.multimodal import choose
from polymodal.train.multimodal.choose import Choice
from polymodal.train.multimodal.recipe import InputColumns, MultimodalModel, MultimodalRecipe
from polymodal.train.recipe import LearnedTokenizer, PretrainedTokenizer


@dataclass(frozen=True)
class Sources:
    """The trained models that a recipe begins with."""

    start: Pretrained | None
    towers: Mapping[str, Pretrained]

    @classmethod
    def of(cls, model: MultimodalModel) -> "Sources":
        """
        Raises:
            ArtifactError: a source cannot be read.
            ConfigError: `model.start` is no model with several inputs.
        """
        start = load_pretrained(model.start) if model.start is not None else None
        if start is not None and not isinstance(start.model, Multimodal):
            kind = type(start.model).__name__
            raise ConfigError(f"model.start: {model.start} is a {kind}; give it to one encoder by model.init.NAME")
        return cls(start, {name: load_pretrained(source) for name, source in model.init.items()})

    @property
    def tokenizer(self) -> Tokenizer | None:
        found = [self.start, *self.towers.values()]
        return next((one.tokenizer for one in found if one is not None and one.tokenizer is not None), None)

    def named(self, plans: Mapping[str, InputPlan], choices: list[Choice]) -> dict[str, InputPlan]:
        """Inputs found in a table under the names that the start's encoders have, by what these read.

        Raises:
            ConfigError: the start reads none of them.
        """
        if self.start is None:
            return dict(plans)
        encoders: Mapping[str, EncoderConfig] = self.start.config.encoders
        named: dict[str, InputPlan] = {}
        for name, plan in plans.items():
            fits = [one for one, config in encoders.items() if config.reads == plan.kind and one not in named]
            if fits:
                named[name if name in fits else fits[0]] = plan
            else:
                choices.append(
                    Choice(f"input {name}", "not read", "the model that is started from has no encoder for it")
                )
        if not named:
            reads = ", ".join(f"{name} ({config.reads})" for name, config in encoders.items())
            raise ConfigError(f"model.start: it reads {reads}; the table has {', '.join(plans)}")
        return named

    def settle(self, features: Features, asked: Mapping[str, InputColumns]) -> Features:
        """The features with the settings that the trained weights expect; columns stay those of this table.

        Args:
            asked: inputs as the recipe names them; a picture's size that is asked for there is kept.
        """
        inputs: dict[str, InputConfig] = {}
        known = self.start.features.inputs if self.start and self.start.features else {}
        for name, config in features.inputs.items():
            before = known.get(name)
            if before is not None and before.kind == config.kind:
                config = before.model_copy(update=_columns(config))
            elif self.start is not None and before is None:
                config = _as_trained(config, self.start)
            elif name in self.towers:
                config = _as_trained(config, self.towers[name])
            if isinstance(config, ImageInput) and name in asked and (size := asked[name].size) is not None:
                config = config.model_copy(update={"preprocess": config.preprocess.model_copy(update={"size": size})})
            inputs[name] = config
        return features.model_copy(update={"inputs": inputs})


def _columns(config: InputConfig) -> dict[str, Any]:
    return {key: getattr(config, key) for key in ("column", "columns") if hasattr(config, key)}


def _as_trained(config: InputConfig, tower: Pretrained) -> InputConfig:
    preprocess = tower.preprocess
    match config:
        case ImageInput():
            return config.model_copy(update={"preprocess": preprocess.image})
        case TextInput():
            longest = min(config.preprocess.max_length, preprocess.text.max_length)
            return config.model_copy(update={"preprocess": preprocess.text.model_copy(update={"max_length": longest})})
        case _:
            return config


def tokenizer_for(
    recipe: MultimodalRecipe,
    features: Features,
    texts: Callable[[], Iterable[str]],
    sources: Sources,
    learned: Tokenizer | None,
) -> Tokenizer | None:
    """That of the weights, else one learned from the training texts; None where no input is a text.

    Raises:
        ConfigError, ArtifactError: as `choose_tokenizer`.
    """
    if not any(isinstance(config, TextInput) for config in features.inputs.values()):
        return None
    usual = LearnedTokenizer() if sources.tokenizer is None else PretrainedTokenizer()
    return choose_tokenizer(recipe.tokenizer or usual, sources.tokenizer, texts, learned)


def model_config(
    recipe: MultimodalRecipe,
    features: Features,
    tokenizer: Tokenizer | None,
    sources: Sources,
    rows: int,
    choices: list[Choice],
) -> MultimodalConfig:
    """The recipe's model with everything that it leaves out chosen.

    Raises:
        ConfigError: parts do not fit each other or the table.
    """
    model = recipe.model
    before: Any = sources.start.model.config if sources.start else None
    encoders: dict[str, EncoderConfig] = {}
    for name, config in features.inputs.items():
        given = (model.encoders or {}).get(name) or (before.encoders.get(name) if before else None)
        if name in sources.towers:
            given = _trained(given, sources.towers[name].config)
        if given is None:
            given, reason = choose.encoder(config, tokenizer.vocab_size if tokenizer else 0, rows)
            choices.append(Choice(f"encoders.{name}", given.kind, reason))
        encoders[name] = _fitting(name, given, config, tokenizer, trained=name in sources.towers or before is not None)
    _refuse_unknown("model.encoders", model.encoders or {}, encoders)
    if before is not None and (absent := before.encoders.keys() - encoders.keys()):
        # The model bears their absence: a learned token stands for them.
        encoders = {name: encoders.get(name, before.encoders[name]) for name in before.encoders}
        choices.append(Choice("inputs", ", ".join(sorted(absent)), "no column of this table has them: always absent"))
    fusion = model.fusion or (before.fusion if before else None)
    if fusion is None:
        fusion, reason = choose.fusion(features, rows)
        choices.append(Choice("fusion", fusion.kind, reason))
    heads = HeadsConfig(targets=_heads(recipe, features), **({"sharing": model.sharing} if model.sharing else {}))
    dropout = model.input_dropout
    if dropout is None:
        dropout = before.input_dropout if before else 0.0
    return MultimodalConfig(encoders=encoders, fusion=fusion, heads=heads, input_dropout=dropout)


def _trained(asked: EncoderConfig | None, tower: EncoderConfig) -> EncoderConfig:
    """That of the trained tower; where a grid of regions is asked for, the tower is its backbone."""
    if isinstance(asked, GridRegionsConfig) and isinstance(tower, OwnImageEncoder):
        return asked.model_copy(update={"backbone": tower})
    return tower


def _heads(recipe: MultimodalRecipe, features: Features) -> dict[str, HeadConfig]:
    _refuse_unknown("model.heads", recipe.model.heads, features.targets)
    heads: dict[str, HeadConfig] = {}
    for name, target in features.targets.items():
        given = recipe.model.heads.get(name)
        if given is not None:
            heads[name] = given.model_copy(update={"outputs": target.outputs})
        elif target.task == "tokens":
            heads[name] = TokenLinearHead(outputs=target.outputs, input=target.text)
        else:
            heads[name] = LinearHead(outputs=target.outputs)
    return heads


def _fitting(
    name: str, encoder: EncoderConfig, config: InputConfig, tokenizer: Tokenizer | None, *, trained: bool
) -> EncoderConfig:
    """The encoder with the sizes that the table decides.

    Raises:
        ConfigError: it reads another kind of input than the table has under its name.
    """
    if encoder.reads != config.kind and not (encoder.reads == "series" and config.kind == "audio"):
        raise ConfigError(
            f"encoders.{name}: {encoder.kind} reads {encoder.reads}, but the table's {name} is {config.kind}"
        )
    changes: dict[str, Any] = {}
    match config:
        case TextInput() if tokenizer is not None and not trained:
            changes["vocab_size"] = tokenizer.vocab_size
        case RecordInput(numbers=numbers, categories=categories) if not trained:
            codes = tuple(len(column.values) + FIRST for column in categories)
            changes |= {"numbers": len(numbers), "categories": codes}
        case SeriesInput(means=means) if not trained:
            changes["channels"] = len(means)
        case AudioInput(preprocess=preprocess) if encoder.kind == "whisper" and not trained:
            changes["mels"] = preprocess.mels
    return type(encoder).parse(encoder.to_dict() | changes, f"model.encoders.{name}")


def _refuse_unknown(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for name in given:
        if name not in known:
            raise ConfigError(f'{where}: "{name}" is not one of {", ".join(known)}{did_you_mean(name, known)}')


def objectives_for(
    recipe: MultimodalRecipe, config: MultimodalConfig, features: Features, tokenizer: Tokenizer | None
) -> tuple[MultimodalConfig, Joint]:
    """The objectives, and the model's config with the heads that they need."""
    texts = [name for name, given in features.inputs.items() if isinstance(given, TextInput)]
    objectives = build_objectives(
        recipe.objectives, features, {name: tokenizer for name in texts if tokenizer is not None}
    )
    heads = dict(config.pretraining) | objectives.heads(config, features)
    return MultimodalConfig.parse(config.to_dict() | {"pretraining": _plain(heads)}, "model"), objectives


def _plain(heads: Mapping[str, Config]) -> dict[str, Any]:
    return {name: head.to_dict() for name, head in heads.items()}


def built(config: MultimodalConfig, sources: Sources, seed: int, choices: list[Choice]) -> Multimodal:
    """The model with the seed's random weights where nothing trained is given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = config.build()
    if sources.start is not None:
        choices.append(_go_on(model, sources.start.model.state_dict()))
    for name, tower in sources.towers.items():
        encoder, part = model.encoders[name], f"encoders.{name}"
        if isinstance(encoder, GridRegionsEncoder) and isinstance(tower.config, OwnImageEncoder):
            encoder, part = encoder.backbone, f"{part}.backbone"
        encoder.load_state_dict(tower.model.state_dict())
        choices.append(Choice(part, "trained weights", "as asked for by model.init"))
    return model


def _go_on(model: Multimodal, weights: Mapping[str, torch.Tensor]) -> Choice:
    """Take over every weight that has a place; heads of other targets are new.

    Raises:
        ConfigError: an encoder or the fusion has another shape than the trained one.
    """
    own = model.state_dict()
    fits = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    new = [name for name in own if name not in fits]
    body = [name for name in new if not name.startswith(("heads.", "pretraining."))]
    if body:
        raise ConfigError(
            f"model.start: {len(body)} weights of encoders and fusion have no trained ones of their shape (first: "
            f"{body[0]}); leave model.encoders and model.fusion out, so that they are those of the start"
        )
    model.load_state_dict({**own, **fits})
    parts = sorted({".".join(name.split(".")[:3]) for name in new})
    return Choice("weights", f"{len(fits)} taken over", f"new: {', '.join(parts) or 'none'}")
