"""Artifact + manifest -> report: retrieval, zero-shot classification, linear probe and k-NN, with confidence intervals.

`polymodal.evaluate` is this room and, by custom of `pm.evaluate(...)`, its one function too: the module can be called.
"""

import sys
from types import ModuleType
from typing import Any

from polymodal.evaluate.report import Report
from polymodal.evaluate.run import TASKS, evaluate

__all__ = ["TASKS", "Report", "evaluate"]


class _Callable(ModuleType):
    # Importing a submodule binds its name on the package and would hide a function of the same name there.
    def __call__(self, *args: Any, **options: Any) -> Report:
        return evaluate(*args, **options)


sys.modules[__name__].__class__ = _Callable
