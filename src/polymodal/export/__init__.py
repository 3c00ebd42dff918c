"""A model as a graph that other programs run: ONNX, OpenVINO IR, a `torch.export` program.

`polymodal.export` is this room and, by custom of `pm.export(...)`, its one function too: the module can be called.
Importing it does no work, for a backend needs the graphs only.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polymodal.export.run import Exported


class _Callable(ModuleType):
    # Importing a submodule binds its name on the package and would hide a function of the same name there.
    def __call__(self, *args: Any, **options: Any) -> "Exported":
        from polymodal.export.run import export

        return export(*args, **options)


sys.modules[__name__].__class__ = _Callable
