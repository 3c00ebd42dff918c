"""A chain of steps carried out: artifact in, artifact out, measured before and after each step."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from safetensors import SafetensorError

from polymodal import artifact
from polymodal.card import Card
from polymodal.compress.calibration import batches
from polymodal.compress.cost import cost
from polymodal.compress.quality import quality
from polymodal.compress.report import Compressed, Stage
from polymodal.compress.rows import Divided, divide
from polymodal.compress.step import Step, Work, parse_steps
from polymodal.config import read_yaml
from polymodal.data.manifest import Manifest
from polymodal.errors import ArtifactError, ConfigError
from polymodal.evaluate.words import LANGUAGES

BATCH = 32  # rows of the batch by which throughput is measured


def compress(
    source: str | Path,
    steps: str | Sequence[str | Step],
    data: str | Path | Manifest,
    out: str | Path,
    *,
    max_loss: float | str | None = None,
    split: str | None = None,
    images: str | Path | None = None,
    exclude: Mapping[str, Sequence[str]] | None = None,
    candidates: int | None = None,
    seed: int = 0,
    lang: str = "en",
    say: Callable[[str], None] = lambda message: None,
) -> Compressed:
    """Carry out the steps on an artifact and write the result, with compression.json and compression.html in it.

    Args:
        source: an artifact's folder, or a run's.
        steps: "prune:ffn=0.3,distill:epochs=2,int8", or steps.
        data: the table to calibrate by, to learn from and to measure on; which rows do what, `rows.divide` says.
        out: folder of the new artifact; one that stands there is replaced when all is done and the bound holds.
        max_loss: of the metric, what the whole chain may cost: "0.5%" or 0.005 are half a point of R@1. None: anything.
        split: rows to measure on.
        images: the folder of the pictures, if not the table's.
        exclude: column -> values; rows that hold one of them are left aside.
        candidates: of retrieval, how many items each query is asked among.
        lang: of the page, "en" or "zh".
        say: hears what is going on.

    Raises:
        ConfigError: a step or option is wrong.
        ArtifactError: the source cannot be loaded, is quantized already, or the bound is broken; or `out` cannot be
            written. What stood at `out` is as it was.
        DataError: the table cannot be used.
    """
    chain, bound = parse_steps(steps), parse_loss(max_loss)
    if lang not in LANGUAGES:
        raise ConfigError(f'lang must be one of {", ".join(LANGUAGES)}, got "{lang}"')
    folder, target = _folder(source), Path(out)
    _refuse_target(folder, target)
    given = artifact.load(folder)
    rows = divide(Path(source), data, split=split, exclude=exclude or {}, images=images, seed=seed)
    work = begun(given, rows, bound, candidates, seed, say)
    try:
        stages, work = _carry_out(chain, work, target)
        done = Compressed(target, stages, rows.which, len(rows.measured), work.notes, bound)
        _refuse_loss(done)
        _save(done, work, chain, lang)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(
            f'"{target}" cannot be written ({reason}); nothing was left under that name; free some room or choose '
            "another place"
        ) from None
    return done


def parse_loss(written: float | str | None) -> float | None:
    """0.005 of "0.5%" or 0.005.

    Raises:
        ConfigError: it is no number, or not from 0 to 1.
    """
    if written is None:
        return None
    text = str(written).strip()
    try:
        value = float(text[:-1]) / 100 if text.endswith(("%", "％")) else float(text)
    except ValueError:
        raise ConfigError(f'max_loss: wanted a share such as 0.5%, got "{written}"') from None
    if not 0 <= value < 1:
        hint = f"; write {text}%, if points were meant" if value >= 1 and "%" not in text else ""
        raise ConfigError(f"max_loss must be at least 0 % and less than 100 %, got {written}{hint}")
    return value


def begun(
    given: artifact.Artifact,
    rows: Divided,
    bound: float | None,
    candidates: int | None,
    seed: int,
    say: Callable[[str], None],
) -> Work:
    """The work before its first step."""
    work = Work(
        artifact=given,
        model=given.model,
        tokenizer=given.tokenizer,
        preprocess=given.preprocess,
        train=rows.train,
        measured=rows.measured,
        measure=partial(quality, candidates=candidates),
        say=say,
        max_loss=bound,
        seed=seed,
        notes=rows.notes,
    )
    work = replace(work, before=work.score())
    if bound is not None and bound < 1 / len(rows.measured):
        fine = f"a single one of the {len(rows.measured):,} measured rows may count for more than the bound on the loss"
        work = replace(work, notes=(*work.notes, fine))
    return work


def _carry_out(chain: Sequence[Step], work: Work, target: Path) -> tuple[tuple[Stage, ...], Work]:
    target.parent.mkdir(parents=True, exist_ok=True)
    batch = next(iter(batches(replace(work, train=work.measured), BATCH)))
    stages = []
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.compressing-", dir=target.parent) as room:
        for number, step in enumerate([None, *chain]):
            if step is not None:
                work.say(f"step {number} of {len(chain)}: {step}")
                work = step.run(work)
                batch = next(iter(batches(replace(work, train=work.measured), BATCH)))  # ids change with a tokenizer
            here = Path(room) / str(number)
            artifact.save(here, model=work.model, tokenizer=work.tokenizer, preprocess=work.preprocess)
            score = work.score() if step is not None or work.before is None else work.before
            stages.append(Stage("" if step is None else str(step), score, cost(here, batch)))
    return tuple(stages), work


def _save(done: Compressed, work: Work, chain: Sequence[Step], lang: str) -> None:
    recipe = work.artifact.folder / "recipe.yaml"
    written = ",".join(map(str, chain))
    artifact.save(
        done.folder,
        model=work.model,
        tokenizer=work.tokenizer,
        preprocess=work.preprocess,
        metrics={"compressed": done.summary, "before": work.artifact.metrics},
        recipe=read_yaml(recipe) if recipe.is_file() else None,
        card=Card(description=f"Made of {work.artifact.folder.name} by `{written}`."),
        extra={"compression.json": done.to_json(), "compression.html": done.to_html(lang)},
    )


def _folder(source: str | Path) -> Path:
    path = Path(source)
    return path / "artifact" if (path / "artifact").is_dir() else path


def _refuse_target(folder: Path, target: Path) -> None:
    if target.resolve() == folder.resolve() or folder.resolve().is_relative_to(target.resolve()):
        raise ConfigError(f'out: "{target}" is where the artifact itself stands; choose another folder')
    if target.exists() and not artifact.is_artifact(target) and not (target.is_dir() and not any(target.iterdir())):
        raise ArtifactError(f'"{target}" exists and is not an artifact: it is not overwritten; choose another folder')


def _refuse_loss(done: Compressed) -> None:
    if done.max_loss is None or done.loss <= done.max_loss + 1e-9:
        return
    rows = "\n".join(f"  {one.step or 'before'}: {100 * one.quality.value:.2f} %" for one in done.stages)
    raise ArtifactError(
        f"the bound on the loss is broken: {done.stages[0].quality.metric} falls by {100 * done.loss:.2f} points, "
        f"{100 * done.max_loss:.2f} were allowed; nothing was written. By step:\n{rows}\nAllow more, ask less of the "
        "step that costs most, or let distill follow it"
    )
