"""`polymodal compare`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polymodal.cli.output import print_json, print_table, say, split_list
from polymodal.errors import ConfigError

if TYPE_CHECKING:
    from polymodal.evaluate.comparison import Plan
    from polymodal.evaluate.entries import Comparison, Entry

UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def run(
    words: Annotated[
        list[str], typer.Argument(metavar="TABLE [KEY=VALUE]...", help="The table, and changes to the recipe of all.")
    ],
    target: Annotated[
        list[str], typer.Option(help="Column to predict from the others; several by commas, or the option again.")
    ],
    fusion: Annotated[str | None, typer.Option(help="Fusions by name, with commas; all: every one there is.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Training time of every model: 60s, 5m, 1h; else chosen by the rows.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of every model, in place of a time.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of every model, in place of a time.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; one that was stopped goes on. Else runs/compare-1, ...")
    ] = None,
    lang: Annotated[str, typer.Option(help="Of compare.html: en or zh.")] = "en",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Time a few steps of each, show what would be trained, and stop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what compare.json holds.")] = False,
) -> None:
    """Train several fusions alike on a table, and each input alone; say which is best, and how sure that is.

    All have the same rows, encoders, seed and budget, and are measured on the same held-out rows. Every score comes
    with its 95 % interval and with the difference to the best single input, whose interval is that of the paired
    bootstrap: where it lies above 0, joining the inputs helps. Each model's run is kept, ready for use. What cannot be
    trained is listed with the reason.

    Ctrl-C keeps what is finished; the same command with `--out FOLDER` goes on with the rest.

    Fusions: late (averages), concat, early, hybrid, tensor, low_rank, gated, film, attention_pool, cross_attention,
    bottleneck, mult, aligned; of two inputs coattention, crossmodal, fuse_text (with a text); of pictures spatial.

    Examples:

    - `polymodal compare houses.csv --target price --out runs/fusions`

    - `polymodal compare houses.csv --target price,defect --fusion late,early,coattention --budget 60s`

    - `polymodal compare 病例.csv --target 诊断 --fusion all --epochs 10 --lang zh`

    - `polymodal compare vqa.csv --target answer --dry-run model.init.text=pip:all-minilm-l6-v2 trainer.lr=3e-4`
    """
    from polymodal.evaluate.comparison import FUSIONS, carry_out, plan
    from polymodal.evaluate.entries import Budget
    from polymodal.train.multimodal.fusions import MAKERS

    names = FUSIONS if fusion is None else list(MAKERS) if fusion == "all" else split_list(fusion, "--fusion")
    given = {"seconds": None if budget is None else _seconds(budget), "steps": steps, "epochs": epochs}
    table, overrides = _divided(words)
    if lang not in ("en", "zh"):
        raise ConfigError(f'--lang: wanted en or zh, got "{lang}"')
    targets = [name for written in target for name in split_list(written, "--target")]
    prepared = plan(table, targets, names, Budget.parse(given, "compare"), overrides)
    if dry_run:
        _show_plan(prepared, as_json)
        return
    try:
        done = carry_out(prepared, out, lang)
    except KeyboardInterrupt as stop:
        say(str(stop) or "stopped")
        raise typer.Exit(130) from None
    _show(done, as_json)


def _divided(words: list[str]) -> tuple[str, list[str]]:
    """The table, and the changes."""
    tables, overrides = [word for word in words if "=" not in word], [word for word in words if "=" in word]
    if len(tables) != 1:
        raise ConfigError(
            f"compare: wanted one table; changes are written key=value, got {', '.join(tables) or 'no table'}"
        )
    return tables[0], overrides


def _seconds(written: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", written.strip().lower())
    if found is None or found[2] not in UNITS or not float(found[1]):
        raise ConfigError(f'--budget: wanted a time such as 60s, 5m or 1h, got "{written}"')
    return float(found[1]) * UNITS[found[2]]


def _show_plan(prepared: "Plan", as_json: bool) -> None:
    planned = prepared.timed()
    if as_json:
        print_json(prepared.settings | {"models": [one.to_dict() for one in planned]})
        return
    rows = [
        (
            one.name,
            ", ".join(one.inputs),
            f"{one.parameters:,}" if one.steps else "",
            f"{one.steps:,}" if one.steps else "",
            f"{one.epochs:.3g}" if one.steps else "",
            _clock(one.seconds) if one.steps else "",
            f"not possible: {one.reason}" if one.reason else "",
        )
        for one in planned
    ]
    print_table(("model", "inputs", "parameters", "steps", "epochs", "time", ""), rows)
    part = prepared.settings["measured_on"]
    train = len(prepared.common.rows.train)
    print(f"{train:,} rows to train, {part['rows']:,} held-out rows ({part['part']}) to measure on")
    print(f"about {_clock(sum(one.seconds for one in planned))} of training in all, {prepared.budget} each")


def _show(done: "Comparison", as_json: bool) -> None:
    if as_json:
        print_json(done.to_dict())
    else:
        metrics = ", ".join(f"{target} {metric}" for target, metric in done.settings["metrics"].items())
        heads = ("model", metrics, "95 %", "to best single input", "parameters", "steps", "seconds", "samples/s")
        print_table(heads, [_row(entry) for entry in done.entries])
        print(f"page  {done.folder / 'compare.html'}")
        if done.best is not None:
            print(f"best  {done.best.name}: {done.folder / str(done.best.run)}")
    for entry in done.entries:
        if entry.status != "done":
            say(f"{entry.name}: {entry.status}: {entry.reason}")
    part = done.settings["measured_on"]
    if part["part"] == "val":
        say("measured on the validation rows, which also chose each run's best step: all scores are somewhat too high")
    if done.best is None:
        say("nothing could be trained")
        raise typer.Exit(1)


def _row(entry: "Entry") -> tuple[str, ...]:
    if entry.status != "done":
        return entry.name, entry.status, "", "", "", "", "", ""
    low_high = f"{entry.interval[0]:.4f} – {entry.interval[1]:.4f}" if entry.interval else ""
    apart = "{:+.4f} ({:+.4f} – {:+.4f})".format(*entry.difference) if entry.difference else ""
    score = "–" if entry.score is None else f"{entry.score:.4f}"
    if entry.run is None:
        return entry.name, score, low_high, apart, "", "", "", ""
    cost = f"{entry.parameters:,}", f"{entry.steps:,}", f"{entry.seconds:.1f}", f"{entry.samples_per_s:,.0f}"
    return entry.name, score, low_high, apart, *cost


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
