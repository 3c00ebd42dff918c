"""`compare`: fusions trained alike on one table, beside each input alone and an answer without any.

OUT/
  compare.json               settings and results, written after every model: a stopped comparison goes on from it
  compare.html, compare.png
  early/, text-alone/, ...   the run of each model, as `polymodal fit` leaves it, and held-out.safetensors: what the
                             model says of the rows that all are measured on
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymodal.data.cache import written_beside
from polymodal.errors import ArtifactError, ConfigError, PolymodalError
from polymodal.evaluate.contenders import Contender, Ground, ground, prepare
from polymodal.evaluate.entries import BASELINE, Budget, Comparison, Entry, Planned
from polymodal.evaluate.held_out import HeldOut, kept_outputs, ranked
from polymodal.metrics.score import Score
from polymodal.metrics.supervised import MAIN_METRIC
from polymodal.train import run as runs
from polymodal.train.console import bar, say
from polymodal.train.multimodal.pace import TimedJob

FUSIONS = ("late", "concat", "early", "hybrid", "tensor", "coattention", "bottleneck")  # when none are named
RESULTS = "compare.json"
TIMING = 20.0  # seconds that a training is taken to last where only its speed is asked for


def compare(
    table: str | Path,
    target: str | Sequence[str],
    fusions: Sequence[str] = FUSIONS,
    *,
    seconds: float | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    lang: str = "en",
) -> Comparison:
    """Train fusions alike on a table, and each input alone; measure all on the same held-out rows.

    All have the same rows, encoders, first weights of the encoders, seed and budget; the learning rate of each ends its
    schedule within the budget. The score is the mean of the targets' main metrics (`metrics.supervised`), with its 95 %
    interval by bootstrap over rows, and the difference to the best single input with that of the paired bootstrap.

    Args:
        target: column or columns to predict.
        fusions: names of `train.multimodal.fusions.MAKERS`; one that cannot read the table's inputs is listed with the
            reason.
        seconds: of training, for every model. None, and neither steps nor epochs: by the number of rows, a minute for
            3,000.
        steps: for every model, in the place of seconds; or
        epochs: likewise.
        overrides: `key=value` of a recipe, for all models: `trainer.lr=3e-4`, `data.split=fold`.
        out: folder of the results; with a part of this very comparison in it, it goes on. None: runs/compare-1, -2, ...
        lang: of compare.html, en or zh.

    Raises:
        ConfigError: a name or setting is wrong, there is one input only, or `out` holds something else.
        DataError: the table cannot be used.
        KeyboardInterrupt: stopped by Ctrl-C; finished models are kept, and the message says how to go on.
    """
    budget = Budget.parse({"seconds": seconds, "steps": steps, "epochs": epochs}, "compare")
    return carry_out(plan(table, target, fusions, budget, overrides), out, lang)


@dataclass(frozen=True)
class Plan:
    """A comparison before its first step."""

    common: Ground
    budget: Budget
    settings: dict[str, Any]  # what must be the same for results to be comparable

    def timed(self) -> list[Planned]:
        """What would be trained and for how long, by timing a few steps of each model."""
        return [self._timed(contender) for contender in self.common.contenders]

    def _timed(self, contender: Contender) -> Planned:
        told = {"name": contender.name, "kind": contender.kind, "inputs": contender.inputs}
        if contender.recipe is None:
            return Planned.parse(told | {"reason": contender.reason}, "compare")
        say(f"timing {contender.name}")
        job = TimedJob(prepare(self.common, contender))
        pace = job.pace(self.budget.seconds or TIMING)
        length = pace.within(self.budget.seconds) if self.budget.seconds else self.budget.length(job)
        times = {"steps": length.steps, "epochs": length.steps / job.epoch_steps, "seconds": pace.seconds(length)}
        return Planned.parse(told | times | {"parameters": contender.parameters}, "compare")


def plan(
    table: str | Path,
    target: str | Sequence[str],
    fusions: Sequence[str] = FUSIONS,
    budget: Budget | None = None,
    overrides: Sequence[str] = (),
) -> Plan:
    """Everything that `compare` does before the first step; arguments and errors are its own."""
    budget = budget or Budget()
    if len([value for value in budget.to_dict().values() if value is not None]) > 1:
        raise ConfigError(f"compare: wanted one of seconds, steps and epochs, got {budget}")
    targets = [target] if isinstance(target, str) else list(target)
    common = ground(table, targets, fusions, overrides)
    rows, part = common.held_out
    if not str(budget):
        budget = Budget(seconds=usual_seconds(len(common.rows.train)))
    settings = {
        "table": str(table),
        "rows": {key: common.state[key] for key in ("train", "val", "rows", "sample")},  # as of a resumed run
        "targets": {name: one.task for name, one in common.features.targets.items()},
        "metrics": {name: MAIN_METRIC[one.task] for name, one in common.features.targets.items()},
        "inputs": {name: one.kind for name, one in common.features.inputs.items()},
        "measured_on": {"rows": len(rows), "part": part},
        "budget": budget.to_dict(),
        "overrides": sorted(overrides),
    }
    return Plan(common, budget, settings)


def usual_seconds(rows: int) -> float:
    """20 s for hundreds of training rows, a minute for 3,000, five at most."""
    return float(min(300, max(20, round(rows / 50))))


def carry_out(plan: Plan, out: str | Path | None = None, lang: str = "en") -> Comparison:
    """`compare` from its plan on."""
    work = _Work(plan, *_claim(plan, out))
    try:
        work.train()
    except KeyboardInterrupt:
        kept = sum(entry.run is not None for entry in work.finish(lang).entries)
        raise KeyboardInterrupt(
            f"stopped; finished models are kept ({kept}). Go on with the same command and --out {work.folder}"
        ) from None
    return work.finish(lang)


class _Work:
    """What is done and what is still to do; written down after every model."""

    def __init__(self, plan: Plan, folder: Path, before: Sequence[Entry]) -> None:
        self.plan, self.folder = plan, folder
        self.rows = HeldOut(plan.common)
        self.entries: dict[str, Entry] = {BASELINE: Entry(name=BASELINE, kind="baseline", status="done")}
        self.scores: dict[str, Score] = {BASELINE: self.rows.score(self.rows.baseline())}
        for entry in before:
            outputs = kept_outputs(folder / entry.run) if entry.run and entry.status == "done" else None
            if outputs is not None:
                self.entries[entry.name], self.scores[entry.name] = entry, self.rows.score(outputs)
        for contender in plan.common.contenders:
            self.entries.setdefault(contender.name, _to_do(contender))

    @property
    def missing(self) -> list[Contender]:
        return [one for one in self.plan.common.contenders if self.entries[one.name].status in ("not yet", "failed")]

    def train(self) -> None:
        """Train and measure what is missing."""
        to_do = self.missing
        with bar() as progress:
            task = progress.add_task("comparing", total=len(to_do))
            for contender in to_do:
                progress.update(task, description=f"comparing: {contender.name}")
                self._try(contender)
                self._write()
                progress.advance(task)

    def _try(self, contender: Contender) -> None:
        try:
            entry = self._trained(contender)
            self.scores[entry.name] = self.rows.score(self.rows.outputs(self.folder / str(entry.run)))
        except (PolymodalError, MemoryError, RuntimeError) as error:  # a RuntimeError is how torch says most things
            entry = _to_do(contender).model_copy(update={"status": "failed", "reason": str(error) or repr(error)})
            say(f"{contender.name}: {entry.reason}", "yellow")
        self.entries[contender.name] = entry

    def _trained(self, contender: Contender) -> Entry:
        run = re.sub(r"[^\w.-]+", "-", contender.name)
        shutil.rmtree(self.folder / run, ignore_errors=True)  # of a run that was stopped or failed
        timed = TimedJob(prepare(self.plan.common, contender))
        length = self.plan.budget.length(timed)
        job = timed.lasting(length)
        say(f"{contender.name}: {length.steps:,} steps, {length.steps / job.epoch_steps:.3g} epochs")
        done = runs.carry_out(job, self.folder / run)
        watch = job.stopwatch
        return _to_do(contender).model_copy(
            update={
                "status": "done",
                "steps": done.steps,
                "epochs": done.steps / job.epoch_steps,
                "seconds": watch.seconds,
                "samples_per_s": len(watch.steps) * job.prepared.batch_size / max(1e-9, sum(watch.steps)),
                "run": run,
            }
        )

    def _write(self) -> Comparison:
        done = Comparison(self.folder, self.plan.settings, ranked(list(self.entries.values()), self.scores))
        with written_beside(self.folder / RESULTS) as fresh:
            fresh.write_text(json.dumps(done.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return done

    def finish(self, lang: str) -> Comparison:
        """The comparison as it stands, with its page and chart."""
        from polymodal.evaluate.comparison_page import write_page  # jinja and matplotlib are slow to import

        done = self._write()
        write_page(done, lang)
        return done


def _to_do(contender: Contender) -> Entry:
    return Entry(
        name=contender.name,
        kind=contender.kind,
        inputs=contender.inputs,
        status="not yet" if contender.recipe else "not possible",
        reason=contender.reason,
        parameters=contender.parameters,
    )


def _claim(plan: Plan, out: str | Path | None) -> tuple[Path, list[Entry]]:
    """The folder of the results, made, and what it holds already of this very comparison."""
    folder = Path(out) if out is not None else _next_folder()
    if (folder / RESULTS).exists():
        return folder, _before(folder, plan.settings)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f'"{folder}" is not empty and holds no comparison: choose another --out')
    folder.mkdir(parents=True, exist_ok=True)
    return folder, []


def _next_folder() -> Path:
    taken = {path.name for path in Path("runs").glob("compare-*")}
    return Path("runs") / next(name for n in range(1, len(taken) + 2) if (name := f"compare-{n}") not in taken)


def _before(folder: Path, settings: dict[str, Any]) -> list[Entry]:
    try:
        found = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        then, entries = found["settings"], [Entry.parse(one, RESULTS) for one in found["models"]]
    except (OSError, ValueError, LookupError, TypeError, ConfigError) as error:
        raise ArtifactError(f'"{folder / RESULTS}" cannot be read ({error}): choose another --out') from None
    for key, now in settings.items():
        if then.get(key) != now:
            what = "other rows" if key == "rows" else f"another {key} (then {then.get(key)}, now {now})"
            raise ConfigError(
                f'"{folder}" holds a comparison with {what}, which cannot stand in one table with this one: choose '
                "another --out"
            )
    return entries
