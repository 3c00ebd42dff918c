"""What transformers' models of a text and a picture have in common on disk, and what ours have beyond them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import ValidationError

from polymodal.errors import ArtifactError, ConfigError
from polymodal.models.multimodal import MultimodalConfig
from polymodal.models.published.hf_bert import ACTIVATIONS, THEIR_ACTIVATIONS
from polymodal.models.published.keymap import Entry, State, affine, same

STAND_IN = "missing."  # of the learned tokens for absent inputs, as if they stood in the checkpoint


def configured(build: Callable[..., MultimodalConfig], **fields: Any) -> MultimodalConfig:
    """`build(**fields)`; whatever is wrong with the fields is a ConfigError."""
    try:
        return build(**fields)
    except ValidationError as error:
        faults = [f"{'.'.join(str(step) for step in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError("; ".join(faults)) from None


def text_fields(read: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `lxmert`, `vilt` and `visualbert` that BERT's settings give; theirs have a dropout of attention
    by itself, which is not read."""
    return {
        "vocab_size": read["vocab_size"],
        "max_length": read["max_position_embeddings"],
        "segments": read["type_vocab_size"],
        "width": read["hidden_size"],
        "heads": read["num_attention_heads"],
        "mlp_width": read["intermediate_size"],
        "activation": ACTIVATIONS.get(read["hidden_act"], read["hidden_act"]),
        "dropout": read["hidden_dropout_prob"],
    }


def text_settings(text: Any, fusion: Any) -> dict[str, Any]:
    """The settings that `text_fields` reads, of a `BertConfig` and a fusion of its width."""
    return {
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.max_length,
        "type_vocab_size": text.segments,
        "hidden_size": fusion.width,
        "num_attention_heads": fusion.heads,
        "intermediate_size": fusion.mlp_width or 4 * fusion.width,
        "hidden_act": THEIR_ACTIVATIONS[fusion.activation],
        "hidden_dropout_prob": fusion.dropout,
        "attention_probs_dropout_prob": fusion.dropout,
        "pad_token_id": 0,
    }


def architecture(config: MultimodalConfig, known: Mapping[frozenset[str], str]) -> str:
    """The name of their model with our heads.

    Raises:
        ArtifactError: there is none.
    """
    heads = frozenset(config.heads.targets) | frozenset(config.pretraining)
    if heads in known:
        return known[heads]
    choices = "; ".join(f"{name}: {', '.join(sorted(theirs)) or 'none'}" for theirs, name in known.items())
    raise ArtifactError(
        f"layout hf: transformers has no such model with the heads {', '.join(sorted(heads))}; it has {choices}; build "
        "the model with these heads alone and load the weights into it, or save an artifact"
    )


def answers(settings: Mapping[str, Any], config: MultimodalConfig) -> tuple[str, ...]:
    """What the outputs of the head "answer" stand for; nothing where the settings do not say it of each."""
    head = config.heads.targets.get("answer")
    names = settings.get("id2label")
    if head is None or not isinstance(names, dict) or names.keys() != {str(number) for number in range(head.outputs)}:
        return ()
    return tuple(str(names[str(number)]) for number in range(head.outputs))


def labels(config: MultimodalConfig, known: tuple[str, ...]) -> dict[str, Any]:
    """The answers of the head "answer" in transformers' way of saying them; `known` as `answers` gives them.

    Raises:
        ArtifactError: they are not as many as the head's outputs.
    """
    head = config.heads.targets.get("answer")
    if head is None:
        return {}
    if known and len(known) != head.outputs:
        raise ArtifactError(f'layout hf: the head "answer" has {head.outputs} outputs, got {len(known)} answers')
    names = known or [f"LABEL_{number}" for number in range(head.outputs)]
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def text_entries(table: str) -> list[Entry]:
    """The tables of words, positions and segments, theirs behind the prefix `table`."""
    return [
        same("encoders.text.embedding.weight", f"{table}.word_embeddings.weight"),
        same("encoders.text.positions", f"{table}.position_embeddings.weight"),
        same("encoders.text.segments", f"{table}.token_type_embeddings.weight"),
    ]


def masked_text_entries(theirs: str, bias: str) -> list[Entry]:
    """Of BERT's head for masked words, whose decoder is the table of words."""
    return [
        *affine("pretraining.masked_text.transform.dense", f"{theirs}.transform.dense"),
        *affine("pretraining.masked_text.transform.norm", f"{theirs}.transform.LayerNorm"),
        same("pretraining.masked_text.bias", bias),
    ]


def stand_in_entries() -> list[Entry]:
    return [same(f"missing.learned.{name}", f"{STAND_IN}{name}") for name in ("text", "image")]


def has_masked_text(read: Mapping[str, Any], state: State, name: str) -> bool:
    """Whether the checkpoint has a head for masked words that ours can be: it must bend by GELU."""
    return name in state and read["hidden_act"] == "gelu"


def plain(state: State, prefix: str, words: str, tied: tuple[str, ...], where: str) -> State:
    """Names as the base model's, without copies of the table of words, and with stand-ins for absent inputs.

    No checkpoint was ever trained without an input: the stand-ins are zeros.

    Args:
        prefix: of the base model's names in a model with heads.
        words: name of the table of words.
        tied: names of what is a copy of it, or of another bias.

    Raises:
        ArtifactError: a copy differs from the table.
    """
    found = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    for name in tied:
        copy = found.pop(name, None)
        if copy is not None and words in found and copy.ndim == 2 and not torch.equal(copy, found[words]):
            raise ArtifactError(
                f"{name} must be equal to {words}, which it is tied to; an untied head is not supported"
            )
    width = found[words].shape[-1] if words in found else 0
    return found | {f"{STAND_IN}{name}": torch.zeros(width) for name in ("text", "image")}


def written(state: State, prefix: str, heads: tuple[str, ...]) -> State:
    """The reverse of `plain`: a model with heads has the base model's names behind its prefix."""
    found = {name: tensor for name, tensor in state.items() if not name.startswith(STAND_IN)}
    if not any(name.startswith(heads) for name in found):
        return found
    return {name if name.startswith(heads) else f"{prefix}{name}": tensor for name, tensor in found.items()}
