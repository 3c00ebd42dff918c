"""What a step of a chain is given, small: pairs for a `Clip`, a table's rows for a `Multimodal`."""

from pathlib import Path
from typing import Any

from polymodal import artifact
from polymodal.artifact import Model
from polymodal.compress.step import Quality, Step, Work
from polymodal.data.manifest import Manifest
from polymodal.models.clip import Clip
from polymodal.models.multimodal import Multimodal
from tests import tiny
from tests.compress import homes
from tests.compress.models import moved
from tests.engine import tables


def pairs(folder: Path, model: Clip | None = None, rows: int = 6, **changes: Any) -> Work:
    """A tiny CLIP, moved off its start, and some pairs."""
    given: Any = model or moved(tiny.clip())
    manifest = tables.read(folder, rows)
    kept: dict[str, Any] = {"tokenizer": tiny.tokenizer(), "preprocess": tiny.preprocess()} | changes
    loaded = artifact.load(artifact.save(folder / "whole", model=given, **kept))
    return work_of(loaded, manifest)


def rows(folder: Path, model: Multimodal | None = None) -> Work:
    """A transformer over two columns, moved off its start, and rows with five targets."""
    given: Any = model or moved(homes.model(homes.features()))
    loaded = artifact.load(homes.saved(folder / "whole", built=given))
    return work_of(loaded, Manifest.read(homes.table(folder / "homes.csv")))


def work_of(loaded: artifact.Artifact, manifest: Manifest) -> Work:
    said: list[str] = []
    return Work(
        artifact=loaded,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        preprocess=loaded.preprocess,
        train=manifest,
        measured=manifest,
        measure=lambda work: Quality("none", 1.0, None, None, {}),
        say=said.append,
    )


def saved_and_read(folder: Path, work: Work) -> Model:
    """The work's model once it went through an artifact's files."""
    kept: Any = {"tokenizer": work.tokenizer, "preprocess": work.preprocess}
    return artifact.load(artifact.save(folder / "small", model=work.model, **kept)).model


def done(step: Step, work: Work) -> Work:
    """The work after the step, which leaves the model that it was given as it is."""
    before = {name: weight.clone() for name, weight in work.model.state_dict().items()}
    after = step.run(work)
    assert all((weight == before[name]).all() for name, weight in work.model.state_dict().items())
    return after
