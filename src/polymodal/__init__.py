"""polymodal: train, evaluate and use multimodal models.

Importing this does no work: every name below is loaded when it is first used, so that `import polymodal` is fast and
the using side runs without the training side.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from polymodal.errors import PolymodalError
from polymodal.version import __version__

if TYPE_CHECKING:
    from polymodal.compress.chain import compress
    from polymodal.data.manifest import Manifest
    from polymodal.engine import Engine, Predictor, load
    from polymodal.evaluate import ablate, evaluate
    from polymodal.evaluate.comparison import compare
    from polymodal.export.run import export
    from polymodal.train import fit

__all__ = [
    "Engine",
    "Manifest",
    "PolymodalError",
    "Predictor",
    "__version__",
    "ablate",
    "compare",
    "compress",
    "evaluate",
    "export",
    "fit",
    "load",
]

_HOMES = {
    "Engine": "polymodal.engine",
    "Manifest": "polymodal.data.manifest",
    "compress": "polymodal.compress.chain",
    "compare": "polymodal.evaluate.comparison",
    "Predictor": "polymodal.engine",
    "ablate": "polymodal.evaluate",
    "evaluate": "polymodal.evaluate",
    "export": "polymodal.export.run",
    "fit": "polymodal.train",
    "load": "polymodal.engine",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'polymodal' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
