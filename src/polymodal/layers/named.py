"""Modules and weights under names that users choose: columns are called "type" and "price.usd"."""

from collections.abc import Iterator, Mapping

from torch import nn

_TAKEN = {*dir(nn.ModuleDict()), *dir(nn.ParameterDict())}


def module_name(name: str) -> str:
    """`name` as a `ModuleDict` or `ParameterDict` takes it; different names stay different.

    Both refuse dots, and names of their own attributes ("type", "values", "half"): a dot becomes %2E, and such a name
    begins with %.
    """
    escaped = name.replace("%", "%25").replace(".", "%2E")
    return f"%{escaped}" if escaped in _TAKEN or not escaped else escaped


class ByName(nn.ModuleDict):
    """A `ModuleDict` that is asked by the names that users chose, whatever they are."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__({module_name(name): module for name, module in modules.items()})
        self._names = tuple(modules)

    def __getitem__(self, name: str) -> nn.Module:
        return super().__getitem__(module_name(name))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)
