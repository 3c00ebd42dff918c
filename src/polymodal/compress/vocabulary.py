"""A smaller vocabulary: the tokens that the table's texts use, and what unseen words are spelled with.

    vocabulary
    vocabulary:characters=false      drop single characters too that no text uses: they become unknown

Texts of the table become the same pieces and give the same vectors, bit by bit. Words that they do not have are read in
smaller pieces than before, which the model knows less well. Positions behind `max_length`, which no text reaches, go
along. See text/trim.py.

Shapes: V rows of an embedding.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from polymodal.artifact import Model
from polymodal.compress.prune import refuse_other_models
from polymodal.compress.step import Step, Work
from polymodal.config import Config
from polymodal.data.source import Rows
from polymodal.data.texts import joined
from polymodal.data.values import as_lists
from polymodal.encoders.pretrained import TransformersConfig
from polymodal.errors import ConfigError, DataError
from polymodal.features import Features, TextInput
from polymodal.models.clip import Clip
from polymodal.models.forms import apply_forms
from polymodal.models.pretraining import MaskedTextHead
from polymodal.text.trim import trim


class Vocabulary(Step):
    kind: Literal["vocabulary"] = "vocabulary"
    characters: bool = True  # keep every single character that has a token

    def run(self, work: Work) -> Work:
        """
        Raises:
            ArtifactError: the model is quantized, or made of several models.
            ConfigError: the model reads no text, or its vocabulary cannot be smaller.
            DataError: the rows have no text.
        """
        refuse_other_models(work)
        towers = _towers(work)
        if not towers or work.tokenizer is None:
            raise ConfigError('step "vocabulary": the model reads no text, so it has no vocabulary')
        texts = list(dict.fromkeys(_texts(work)))
        if not texts:
            raise DataError(
                f'{work.train.source}: step "vocabulary": no row has a text; give a table of texts to --data'
            )
        needed = [number for config, _ in towers.values() for number in _named_ids(config)]
        tokenizer, kept = trim(work.tokenizer, texts, self.characters, needed)
        model = _rebuilt(work, towers, kept)
        before = work.tokenizer.vocab_size
        work.say(f"{before:,} -> {len(kept):,} tokens, by {len(texts):,} different texts")
        return replace(work, model=model, tokenizer=tokenizer)


def _towers(work: Work) -> dict[str, tuple[Any, int]]:
    """By dotted name each text encoder's config, and how many tokens of a text reach it at most."""
    if isinstance(work.model, Clip):
        assert not isinstance(work.preprocess, Features)
        return {"text_encoder": (work.model.config.text, work.preprocess.text.max_length)}
    assert isinstance(work.preprocess, Features)
    encoders: Any = work.model.get_submodule("encoders")
    return {
        f"encoders.{part}": (module.config, given.preprocess.max_length)
        for (part, module), name in zip(encoders.named_children(), encoders, strict=True)
        if isinstance(given := work.preprocess.inputs.get(name), TextInput)
    }


def _texts(work: Work) -> Iterator[str]:
    """Every text that the model may be given of the work's training rows."""
    if not isinstance(work.preprocess, Features):
        for row in range(len(work.train)):
            yield from work.train.captions(row)
        return
    rows = Rows(work.train)
    for given in work.preprocess.inputs.values():
        if isinstance(given, TextInput) and all(column in rows.there for column in given.columns):
            whole = joined(rows, given).to_pylist()
            lists = as_lists(rows.column(given.columns[0])) if given.pick else []
            yield from (text for text in [*whole, *(one for cell in lists for one in cell or ())] if text)


def _named_ids(config: Config) -> list[int]:
    """Ids that the config names: of the end token, of padding."""
    return [
        number for name, number in _settings(config).items() if name.endswith("_token_id") and isinstance(number, int)
    ]


def _settings(config: Config) -> dict[str, Any]:
    return config.settings if isinstance(config, TransformersConfig) else config.to_dict()


def _smaller(config: Any, kept: list[int], longest: int) -> Any:
    """The encoder's config for the kept tokens and for texts of at most `longest`."""
    new = {old: number for number, old in enumerate(kept)}
    changes: dict[str, Any] = {"vocab_size": len(kept)}
    changes |= {
        name: new[number]
        for name, number in _settings(config).items()
        if name.endswith("_token_id") and isinstance(number, int) and number in new
    }
    if isinstance(config, TransformersConfig):
        return config.model_copy(update={"settings": config.settings | changes})
    if hasattr(config, "max_length"):
        changes["max_length"] = min(config.max_length, longest)
    return config.model_copy(update=changes)


@torch.no_grad()
def _rebuilt(work: Work, towers: Mapping[str, tuple[Any, int]], kept: list[int]) -> Model:
    """The model with the kept rows of its embeddings."""
    old, smaller = work.model, {name: _smaller(config, kept, longest) for name, (config, longest) in towers.items()}
    config: Any = old.config
    if isinstance(old, Clip):
        config = config.model_copy(update={"text": smaller["text_encoder"]})
    else:
        by_module = {name: smaller.get(f"encoders.{part}") for part, name in _parts(old)}
        encoders = {name: by_module[name] or encoder for name, encoder in config.encoders.items()}
        config = config.model_copy(update={"encoders": encoders})
    with torch.device("meta"):
        model: Model = config.build()
        apply_forms(model, old.forms)
    model.forms = old.forms
    model.load_state_dict(dict(_weights(old, model, list(towers), kept)), assign=True)
    return model.eval()


def _parts(model: Model) -> Iterator[tuple[str, str]]:
    """Of each encoder its module's name and its input's."""
    encoders: Any = model.get_submodule("encoders")
    return zip((part for part, _ in encoders.named_children()), encoders, strict=True)


def _weights(old: Model, new: Model, towers: list[str], kept: list[int]) -> Iterator[tuple[str, Tensor]]:
    """The old weights at the new sizes."""
    tables = {table.data_ptr() for name in towers for table in _tables(old.get_submodule(name))}
    biases = {
        f"{name}.bias" for name, module in old.named_modules() if isinstance(module, MaskedTextHead)
    }  # of scores by the text encoder's own table
    shapes = {name: weight.shape for name, weight in new.state_dict().items()}
    for name, weight in old.state_dict().items():
        if weight.data_ptr() in tables or name in biases:
            yield name, weight[kept].clone()
        else:  # positions: the first ones, which are all that texts reach
            yield name, weight[: shapes[name][0]].clone() if weight.shape != shapes[name] else weight.clone()


def _tables(tower: nn.Module) -> list[Tensor]:
    """The tower's embedding of tokens."""
    inner: Any = getattr(tower, "model", None)  # of transformers
    table: Any = tower.get_submodule("embedding") if inner is None else inner.get_input_embeddings()
    return [table.weight]
