"""`teach`: any trained model teaches a new one, of any recipe, what it says of the rows of a table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from polymodal.artifact import Artifact
from polymodal.compress.distill import Teaching
from polymodal.compress.imitation import TaughtClipTraining
from polymodal.compress.members import read_member
from polymodal.compress.quality import quality
from polymodal.compress.step import Work
from polymodal.errors import ConfigError
from polymodal.objectives.joint_step import Joint, JointObjective
from polymodal.train.clip_job import ClipJob
from polymodal.train.console import say
from polymodal.train.job import Job
from polymodal.train.multimodal.job import MultimodalJob
from polymodal.train.run import Run, carry_out, plan


def teach(
    teaching: Teaching,
    recipe: str | Path | Mapping[str, Any],
    table: str | Path | None = None,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Run:
    """`fit`, with teachers: the run's folder is as `fit` leaves it, only that it cannot be resumed.

    The student may have another architecture, tokenizer and preprocessing than its teachers. Its own objectives count
    `teaching.hard` times.

    Args:
        teaching: with one teacher or more.
        recipe, table, out, overrides: as of `fit`.

    Raises:
        ConfigError: there is no teacher, an option is for another kind of model, or the recipe has faults.
        ArtifactError: a teacher cannot be loaded, or cannot teach such a model.
        DataError, TrainError: as `fit`.
    """
    if not teaching.teacher:
        raise ConfigError("distill: wanted a teacher, got none: `--teacher runs/large`")
    teacher = read_member(teaching.teacher[0])
    return carry_out(_taught(plan(recipe, table, overrides=overrides), teaching, teacher), out)


def _taught(job: Job, teaching: Teaching, teacher: Artifact) -> Job:
    return _clip(job, teaching, teacher) if isinstance(job, ClipJob) else _rows(job, teaching, teacher)


class _ClipLearning(ClipJob):
    training_class = TaughtClipTraining


def _clip(job: ClipJob, teaching: Teaching, teacher: Artifact) -> Job:
    prepared, built = job.prepared, job.prepared.built
    begun = Work(teacher, built.model, built.tokenizer, built.preprocess, prepared.train, prepared.train, quality, say)
    taught = teaching.of_pairs(begun, built.model)([prepared.train], [prepared.numbers[0]])
    for objective in prepared.objectives:
        objective.weight *= teaching.hard
    return _ClipLearning(replace(prepared, objectives=[*prepared.objectives, taught]))


def _rows(job: Job, teaching: Teaching, teacher: Artifact) -> Job:
    assert isinstance(job, MultimodalJob)
    prepared, rows = job.prepared, job.prepared.rows
    begun = Work(teacher, prepared.model, prepared.tokenizer, prepared.features, rows.train, rows.train, quality, say)
    taught = teaching.of_rows(begun, prepared.model)([rows.train, *([rows.val] if rows.val is not None else [])])
    own = [one for one in prepared.objectives.objectives if isinstance(one, JointObjective)]
    for objective in own:
        objective.weight *= teaching.hard
    return MultimodalJob(replace(prepared, objectives=Joint([*own, taught])))
