"""What ensembles and soups share: their members, and how much each counts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from polymodal import artifact
from polymodal.artifact import Artifact, Model
from polymodal.errors import ArtifactError, ConfigError
from polymodal.features import Features
from polymodal.models.forms import Forms
from polymodal.preprocess import Preprocess
from polymodal.text import Tokenizer


class Combined(NamedTuple):
    model: Model
    preprocess: Preprocess | Features
    tokenizer: Tokenizer | None
    data: dict[str, Any]  # what is told of it, as plain values


class Weights(NamedTuple):
    fitted: bool
    shares: tuple[float, ...]  # of each member; where they are fitted, all alike

    @classmethod
    def of(cls, asked: str | Sequence[float], members: int) -> "Weights":
        """
        Raises:
            ConfigError: there is not a number of at least 0 for each member, or all are 0.
        """
        if isinstance(asked, str):
            return cls(asked == "fit", (1 / members,) * members)
        if len(asked) != members:
            raise ConfigError(f"weights: wanted {members} numbers, one for each model, got {len(asked)}")
        total = sum(asked)
        if min(asked) < 0 or not 0 < total < float("inf"):
            raise ConfigError(f"weights must be at least 0 and not all 0, got {', '.join(f'{one:g}' for one in asked)}")
        return cls(False, tuple(one / total for one in asked))


def read_member(source: str | Path) -> Artifact:
    """The artifact, or that of a run.

    Raises:
        ArtifactError: there is none, or its files are damaged.
    """
    folder = Path(source)
    return artifact.load(folder / "artifact" if (folder / "artifact").is_dir() else folder)


def same_tokenizer(sources: Sequence[str | Path], members: Sequence[Artifact], where: str) -> Tokenizer | None:
    """The one that all have.

    Raises:
        ArtifactError: they differ.
    """
    first, *others = (None if member.tokenizer is None else member.tokenizer.backend.to_str() for member in members)
    for source, other in zip(sources[1:], others, strict=True):
        if other != first:
            raise ArtifactError(
                f'{where}: "{sources[0]}" and "{source}" have different tokenizers, and one artifact holds one; train '
                f"them with the same (tokenizer.kind=pretrained, tokenizer.source={sources[0]})"
            )
    return members[0].tokenizer


def joined_forms(members: Sequence[tuple[Forms, dict[str, str]]]) -> Forms:
    """The forms of several models inside one.

    Args:
        members: each one's forms, and of the beginning of a module's name in it the beginning in the whole model.
    """
    whole = Forms()
    for forms, moved in members:
        for change in forms.changes:
            whole = whole.changed(_moved(change.module, moved), change.form)
        whole = whole.storing({_moved(name, moved): store for name, store in forms.stored.items()})
    return whole


def _moved(name: str, moved: dict[str, str]) -> str:
    before, after = next((pair for pair in moved.items() if name.startswith(pair[0])), ("", ""))
    return after + name.removeprefix(before)


def named(sources: Sequence[str | Path], kinds: Sequence[bool], kind: bool) -> str:
    return ", ".join(f'"{source}"' for source, one in zip(sources, kinds, strict=True) if one is kind)
