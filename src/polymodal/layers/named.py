"""Modules and weights under names that users choose: columns are called "type" and "price.usd"."""

from torch import nn

_TAKEN = {*dir(nn.ModuleDict()), *dir(nn.ParameterDict())}


def module_name(name: str) -> str:
    """`name` as a `ModuleDict` or `ParameterDict` takes it; different names stay different.

    Both refuse dots, and names of their own attributes ("type", "values", "half"): a dot becomes %2E, and such a name
    begins with %.
    """
    escaped = name.replace("%", "%25").replace(".", "%2E")
    return f"%{escaped}" if escaped in _TAKEN or not escaped else escaped
