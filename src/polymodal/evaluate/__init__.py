"""Artifact + manifest -> report with confidence intervals.

Of a model of pictures and texts: retrieval, zero-shot classification, linear probe and k-NN. Of a model that predicts:
every target, and what each input is worth (`ablate`).

`polymodal.evaluate` is this room and, by custom of `pm.evaluate(...)`, its one function too: the module can be called.
"""

import sys
from types import ModuleType
from typing import Any

from polymodal.evaluate.ablation import Ablation, ablate
from polymodal.evaluate.either import evaluate
from polymodal.evaluate.report import Report
from polymodal.evaluate.run import TASKS
from polymodal.evaluate.targets_report import TargetsReport

__all__ = ["TASKS", "Ablation", "Report", "TargetsReport", "ablate", "evaluate"]


class _Callable(ModuleType):
    # Importing a submodule binds its name on the package and would hide a function of the same name there.
    def __call__(self, *args: Any, **options: Any) -> Report:
        return evaluate(*args, **options)


sys.modules[__name__].__class__ = _Callable
