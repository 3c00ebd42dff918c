"""From what a person names (an artifact, a run, a checkpoint's folder, `hub:org/name`) to an engine."""

import json
from pathlib import Path

from polymodal import artifact
from polymodal.engine.engine import Engine, Precision
from polymodal.errors import ArtifactError, did_you_mean

HUB = "hub:"


def load(source: str | Path, *, device: str = "auto", precision: Precision = "float32") -> Engine:
    """An engine of an artifact, a run folder, a Hugging Face folder, or `hub:org/name`.

    The network is asked for `hub:` only.

    Args:
        device: cpu, cuda, cuda:1, mps; auto is the first GPU that torch can use, else the CPU.
        precision: bfloat16 halves memory and is faster where the processor knows it (`polymodal doctor`).

    Raises:
        ArtifactError: nothing of the kind is there, or its files are damaged or do not fit.
        ConfigError: the device cannot be used.
    """
    folder = Path(source)
    if not str(source).startswith(HUB):
        if not folder.exists():
            raise ArtifactError(f'"{source}": {_not_there(folder)}')
        if not folder.is_dir():
            raise ArtifactError(f'"{source}" is a file; name the folder it is in: "{folder.parent}"')
        inside = folder / "artifact"
        if inside.is_dir():
            folder = inside
        if not _is_published(folder):
            found = artifact.load(folder)
            return Engine(
                found.model,
                found.tokenizer,
                found.preprocess,
                name=str(source),
                metrics=found.metrics,
                checksum=found.checksum,
                device=device,
                precision=precision,
            )
    from polymodal.models import published

    pretrained = published.load(str(source))
    return Engine(
        pretrained.model,
        pretrained.tokenizer,
        pretrained.preprocess,
        name=str(source),
        device=device,
        precision=precision,
    )


def _is_published(folder: Path) -> bool:
    """A released checkpoint's folder: its config.json names a model_type."""
    try:
        return "model_type" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _not_there(folder: Path) -> str:
    near = [str(one) for one in folder.parent.glob("*") if one.is_dir()] if folder.parent.is_dir() else []
    hint = did_you_mean(str(folder), near)
    if not hint and str(folder).count("/") == 1:
        hint = f'; a model of the hub is named "{HUB}{folder}"'
    return f"no such folder{hint}"
