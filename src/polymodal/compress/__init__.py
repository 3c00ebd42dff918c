"""Artifact in, smaller artifact out, by a chain of steps, each with its price.

`polymodal.compress` is this room and, by custom of `pm.compress(...)`, its one function too: the module can be called.
Importing it does no work, so that a step can be imported without all others.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polymodal.compress.report import Compressed


class _Callable(ModuleType):
    # Importing a submodule binds its name on the package and would hide a function of the same name there.
    def __call__(self, *args: Any, **options: Any) -> "Compressed":
        from polymodal.compress.chain import compress

        return compress(*args, **options)


sys.modules[__name__].__class__ = _Callable
