"""From what a person names (an artifact, a run, a released checkpoint, `hub:org/name`) to an engine."""

import json
from pathlib import Path
from typing import Any

from polymodal import artifact
from polymodal.engine.engine import Engine, Precision
from polymodal.engine.predict import Predictor
from polymodal.errors import ArtifactError, did_you_mean
from polymodal.features import Features
from polymodal.models.clip import Clip
from polymodal.models.ensemble import Ensemble
from polymodal.models.multimodal import Multimodal
from polymodal.preprocess import Preprocess

ELSEWHERE = ("hub:", "pip:")  # what `models.published` finds by itself


def load(source: str | Path, *, device: str = "auto", precision: Precision = "float32") -> Any:
    """An engine of an artifact, a run folder, a released checkpoint's folder or file, or `hub:org/name`.

    A model of pictures and texts becomes an `Engine`, one with several inputs and targets a `Predictor`; which of them
    is known only when the files are read (`load_engine` and `load_predictor` say which they give).

    The network is asked for `hub:` only.

    Args:
        device: cpu, cuda, cuda:1, mps; auto is the first GPU that torch can use, else the CPU.
        precision: bfloat16 halves memory and is faster where the processor knows it (`polymodal doctor`).

    Raises:
        ArtifactError: nothing of the kind is there, or its files are damaged or do not fit.
        ConfigError: the device cannot be used.
    """
    if str(source).startswith(ELSEWHERE):
        return _published(str(source), device, precision)
    path = Path(source)
    if not path.exists():
        raise ArtifactError(f'"{source}": {_not_there(path)}')
    if path.is_file() and artifact.is_artifact(path.parent):
        raise ArtifactError(f'"{source}" is a file of an artifact; name its folder, "{path.parent}"')
    if path.is_file() or _is_published(path):
        return _published(str(path), device, precision)
    folder = path / "artifact" if (path / "artifact").is_dir() else path
    if not (folder / "config.json").exists() and (path / "log.jsonl").exists():
        raise ArtifactError(f'"{source}" is a run that has left no artifact yet; let `polymodal fit` end, or resume it')
    found = artifact.load(folder)
    about: Any = {"name": str(source), "metrics": found.metrics, "checksum": found.checksum, "device": device}
    if isinstance(found.model, Multimodal | Ensemble):
        assert isinstance(found.preprocess, Features)
        return Predictor(found.model, found.tokenizer, found.preprocess, **about)
    assert isinstance(found.preprocess, Preprocess)
    return Engine(found.model, found.tokenizer, found.preprocess, **about, precision=precision)


def load_engine(source: str | Path, *, device: str = "auto", precision: Precision = "float32") -> Engine:
    """`load` for those who ask with pictures and texts.

    Raises:
        ArtifactError: as `load`; or the model predicts from the rows of a table.
    """
    found: Engine | Predictor = load(source, device=device, precision=precision)
    if isinstance(found, Predictor):
        targets, inputs = ", ".join(found.features.targets) or "nothing", ", ".join(found.features.inputs)
        raise ArtifactError(
            f'"{source}" has no space of pictures and texts: it predicts {targets} from {inputs}; use '
            f"`polymodal predict {source} TABLE`"
        )
    return found


def load_predictor(source: str | Path, *, device: str = "auto") -> Predictor:
    """`load` for those who ask with rows of a table.

    Raises:
        ArtifactError: as `load`; or the model has a space of pictures and texts, and no targets.
    """
    found: Engine | Predictor = load(source, device=device)
    if isinstance(found, Engine):
        raise ArtifactError(
            f'"{source}" has no targets: it compares pictures and texts; use `polymodal query`, `classify` or `embed`'
        )
    return found


def _published(source: str, device: str, precision: Precision) -> Engine:
    from polymodal.models import published

    found = published.load(source)
    if not isinstance(found.model, Clip):
        kind = type(found.model).__name__
        raise ArtifactError(
            f'"{source}" holds one tower ({kind}), not a model of pictures and texts; '
            "start a training from it: `polymodal fit` on your table"
        )
    return Engine(found.model, found.tokenizer, found.preprocess, name=source, device=device, precision=precision)


def _is_published(folder: Path) -> bool:
    """A released checkpoint's folder: its config.json names a model_type."""
    try:
        return "model_type" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _not_there(path: Path) -> str:
    near = [str(one) for one in path.parent.glob("*") if one.is_dir()] if path.parent.is_dir() else []
    if hint := did_you_mean(str(path), near):
        return f"no such folder{hint}"
    if len(path.parts) == 2 and not path.is_absolute():  # org/name
        return f'no such folder; a model of the hub is named "hub:{path}"'
    return "no such folder; `polymodal fit` prints where it left the artifact"
