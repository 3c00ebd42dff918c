"""Configs: frozen pydantic models, read from YAML, changed by dotted overrides, every fault named at once.

A config stands next to what it builds and its `build()` makes the thing; configs nest as modules nest.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from polymodal.errors import ConfigError, did_you_mean


class Config(BaseModel):
    """Base of every config: immutable, and an unknown key is an error with a suggestion."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def parse(cls, data: Mapping[str, Any], where: str) -> Self:
        """A config of `data`.

        Args:
            data: nested plain values, as YAML or JSON give them.
            where: what to call the data in an error, for instance the file's name.

        Raises:
            ConfigError: names every fault, one a line, with its dotted path.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            faults = [f"{where}: {_explain(cls, fault)}" for fault in error.errors()]
            raise ConfigError("\n".join(faults)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `parse` reads back as an equal config."""
        return self.model_dump(mode="json")


def _explain(root: type[BaseModel], fault: Any) -> str:
    # Walk the classes along pydantic's location. A step that is no key of the file is the tag of a union ("vit" of
    # model.image): it chooses a class and has no place in the message.
    written: list[str] = []
    classes = [root]
    for step in fault["loc"]:
        tagged = [found for found in classes if _kind(found) == step]
        if tagged and step not in tagged[0].model_fields:
            classes = tagged
            continue
        written.append(str(step))
        if isinstance(step, str):
            fields = [found.model_fields[step] for found in classes if step in found.model_fields]
            classes = [inner for field in fields for inner in _config_classes(field.annotation)] or classes
    dotted = ".".join(written) or "the file"
    match fault["type"]:
        case "extra_forbidden":
            known = sorted({key for found in classes for key in found.model_fields})
            return f'unknown key "{dotted}"' + (did_you_mean(written[-1], known) or f"; known: {', '.join(known)}")
        case "missing":
            return f'"{dotted}" is missing'
        case "union_tag_invalid":
            tag, known = fault["ctx"]["tag"], re.findall(r"'([^']+)'", fault["ctx"]["expected_tags"])
            return f'{dotted}.kind "{tag}" is not known' + (did_you_mean(tag, known) or f"; known: {', '.join(known)}")
        case "union_tag_not_found":
            return f'{dotted}: "kind" is missing; known: {", ".join(filter(None, map(_kind, classes)))}'
        case _:
            return f"{dotted}: {fault['msg'].removeprefix('Value error, ')}, got {fault['input']!r}"


def _kind(config: type[BaseModel]) -> str | None:
    field = config.model_fields.get("kind")
    return field.default if field else None


def _config_classes(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if get_origin(annotation) in (Annotated, Union, UnionType, list, tuple, dict):
        return [found for inner in get_args(annotation) for found in _config_classes(inner)]
    return []


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something else than a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: wanted `key: value` lines, got a {type(data).__name__}")
    return data


def write_yaml(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True), encoding="utf-8")


def override(data: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `data` with dotted assignments such as `trainer.epochs=3` carried out.

    Values are YAML: `3`, `1e-3`, `true`, `[a, b]`, `null`. A number leads into a list: `objectives.0.weight=2`.

    Raises:
        ConfigError: an assignment is not `key=value`, or leads through something that has no keys.
    """
    changed: dict[str, Any] = _copy(data)
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign or not key:
            raise ConfigError(f'"{assignment}": wanted key=value, for instance trainer.epochs=3')
        *parents, last = key.split(".")
        node: Any = changed
        for step in parents:
            node = node[_place(node, step, assignment)] if isinstance(node, list) else node.setdefault(step, {})
            if not isinstance(node, dict | list):
                raise ConfigError(f'"{assignment}": "{step}" is a value and has no keys below it')
        node[_place(node, last, assignment) if isinstance(node, list) else last] = _scalar(value)
    return changed


def _place(items: list[Any], step: str, assignment: str) -> int:
    if not step.isdecimal() or int(step) >= len(items):
        raise ConfigError(f'"{assignment}": wanted a place from 0 to {len(items) - 1} in the list, got "{step}"')
    return int(step)


def _scalar(text: str) -> Any:
    # YAML 1.1 reads 1e-3 as a string, which nobody means.
    if re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", text):
        return float(text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f'"{text}" is not a YAML value: {error}') from None


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value
