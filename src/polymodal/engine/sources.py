"""From what a person names (an artifact, a run, a released checkpoint, `hub:org/name`) to an engine."""

import json
from pathlib import Path
from typing import Any, TypeVar, get_args

from polymodal import artifact
from polymodal.engine.backends.choose import AskedBackend, AskedPrecision
from polymodal.engine.engine import Engine
from polymodal.engine.predict import Predictor
from polymodal.engine.vector_cache import VectorCache
from polymodal.errors import ArtifactError, ConfigError, did_you_mean
from polymodal.features import Features
from polymodal.models.clip import Clip
from polymodal.models.ensemble import Ensemble
from polymodal.models.multimodal import Multimodal
from polymodal.preprocess import Decoding, Preprocess

ELSEWHERE = ("hub:", "pip:")  # what `models.published` finds by itself
Settings = TypeVar("Settings", Preprocess, Features)


def load(
    source: str | Path,
    *,
    device: str = "auto",
    backend: AskedBackend = "auto",
    precision: AskedPrecision = "auto",
    decoding: Decoding | None = None,
    cache: bool = False,
) -> Any:
    """An engine of an artifact, a run folder, a released checkpoint's folder or file, or `hub:org/name`.

    A model of pictures and texts becomes an `Engine`, one with several inputs and targets a `Predictor`; which of them
    is known only when the files are read (`load_engine` and `load_predictor` say which they give).

    The network is asked for `hub:` only.

    Args:
        device: cpu, cuda, cuda:1, mps; auto is the first GPU that torch can use, else the CPU.
        backend: torch, openvino, onnx; auto is the one that a short measurement finds to be the fastest here. It takes
            seconds at the first time, and some more to convert the model, and is kept in the cache folder; a model of
            fewer than 5 million weights has torch at once.
        precision: float32, bfloat16, int8; auto is bfloat16 where the CPU has instructions for it, else float32.
            `polymodal bench` says what each costs and gives here; what the CPU cannot do becomes float32, which the
            engine's `notes` say.
        decoding: of pictures: exact, or fast (see `ImagePreprocess`); None: as the model saw them in training.
        cache: keep the vectors of pictures and texts in the cache folder, at most 1 GiB, and take them from there when
            the same come again. For models of pictures and texts.

    Raises:
        ArtifactError: nothing of the kind is there, or its files are damaged or do not fit.
        ConfigError: the device cannot be used, the backend is not installed or does not know the precision, or the
            model reads no pictures and a decoding is asked for.
    """
    computing: Any = {"device": device, "backend": backend, "precision": precision}
    if str(source).startswith(ELSEWHERE):
        return _published(str(source), decoding, **computing, cache=VectorCache() if cache else None)
    path = Path(source)
    if not path.exists():
        raise ArtifactError(f'"{source}": {_not_there(path)}')
    if path.is_file() and artifact.is_artifact(path.parent):
        raise ArtifactError(f'"{source}" is a file of an artifact; name its folder, "{path.parent}"')
    if path.is_file() or _is_published(path):
        return _published(str(path), decoding, **computing, cache=VectorCache() if cache else None)
    folder = path / "artifact" if (path / "artifact").is_dir() else path
    if not (folder / "config.json").exists() and (path / "log.jsonl").exists():
        raise ArtifactError(f'"{source}" is a run that has left no artifact yet; let `polymodal fit` end, or resume it')
    found = artifact.load(folder)
    about: Any = {"name": str(source), "metrics": found.metrics, "checksum": found.checksum, **computing}
    if isinstance(found.model, Multimodal | Ensemble):
        assert isinstance(found.preprocess, Features)
        if cache:
            raise ConfigError(
                f'"{source}" predicts from rows: there are no vectors of pictures or texts to keep in a cache'
            )
        return Predictor(found.model, found.tokenizer, _decoded(source, found.preprocess, decoding), **about)
    assert isinstance(found.preprocess, Preprocess)
    preprocess = _decoded(source, found.preprocess, decoding)
    return Engine(found.model, found.tokenizer, preprocess, **about, cache=VectorCache() if cache else None)


def load_engine(
    source: str | Path,
    *,
    device: str = "auto",
    backend: AskedBackend = "auto",
    precision: AskedPrecision = "auto",
    decoding: Decoding | None = None,
    cache: bool = False,
) -> Engine:
    """`load` for those who ask with pictures and texts.

    Raises:
        ArtifactError: as `load`; or the model predicts from the rows of a table.
    """
    found: Engine | Predictor = load(
        source, device=device, backend=backend, precision=precision, decoding=decoding, cache=cache
    )
    if isinstance(found, Predictor):
        targets, inputs = ", ".join(found.features.targets) or "nothing", ", ".join(found.features.inputs)
        raise ArtifactError(
            f'"{source}" has no space of pictures and texts: it predicts {targets} from {inputs}; use '
            f"`polymodal predict {source} TABLE`"
        )
    return found


def load_predictor(
    source: str | Path,
    *,
    device: str = "auto",
    backend: AskedBackend = "auto",
    precision: AskedPrecision = "auto",
    decoding: Decoding | None = None,
) -> Predictor:
    """`load` for those who ask with rows of a table.

    Raises:
        ArtifactError: as `load`; or the model has a space of pictures and texts, and no targets.
    """
    found: Engine | Predictor = load(source, device=device, backend=backend, precision=precision, decoding=decoding)
    if isinstance(found, Engine):
        raise ArtifactError(
            f'"{source}" has no targets: it compares pictures and texts; use `polymodal query`, `classify` or `embed`'
        )
    return found


def _decoded(source: str | Path, settings: Settings, decoding: Decoding | None) -> Settings:
    """The settings with another decoding of pictures, if one is asked for."""
    if decoding not in (None, *get_args(Decoding)):
        raise ConfigError(f"decoding must be {' or '.join(get_args(Decoding))}, got {decoding!r}")
    if decoding and isinstance(settings, Features):
        kinds = [config.kind for config in settings.inputs.values()]
        if "image" not in kinds:
            raise ConfigError(f'decoding={decoding}: "{source}" reads no pictures, it reads {", ".join(kinds)}')
    return settings.with_decoding(decoding)


def _published(source: str, decoding: Decoding | None, **how: Any) -> Engine:
    from polymodal.models import published

    found = published.load(source)
    if not isinstance(found.model, Clip):
        kind = type(found.model).__name__
        raise ArtifactError(
            f'"{source}" holds one tower ({kind}), not a model of pictures and texts; '
            "start a training from it: `polymodal fit` on your table"
        )
    preprocess = _decoded(source, found.preprocess, decoding)
    return Engine(found.model, found.tokenizer, preprocess, name=source, **how)


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
