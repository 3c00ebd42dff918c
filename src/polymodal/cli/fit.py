"""`polymodal fit`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polymodal.cli.evaluate import print_targets, say_about
from polymodal.cli.output import print_json, print_table, say
from polymodal.errors import ConfigError

if TYPE_CHECKING:
    from polymodal.evaluate import TargetsReport
    from polymodal.train.run import Run


def run(
    recipe: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE|TABLE [KEY=VALUE]...", help="What to train, and changes to it."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A recipe of your own, in place of RECIPE.")] = None,
    table: Annotated[Path | None, typer.Option(help="The table to train on.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Column to predict from the others; several by commas, or the option again."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; else runs/NAME-1, -2, ...")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run (its folder, or a checkpoint).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a model by a recipe on a table.

    With `--target` a model of all other columns is trained: pictures, texts, sounds, numbers, categories. Encoders,
    fusion and sizes are chosen by the rows and the machine; the plan says which and why. Some rows are kept apart, and
    the model is measured on them in the run's report.html.

    Recipes: `clip-tiny`, `clip`, `lit`, `siglip`, or a YAML file. A table alone is trained on by `clip-tiny`. Every key
    of a recipe can be changed by `key=value`. Ctrl-C saves and stops; `--resume` goes on as if nothing had happened.

    Examples:

    - `polymodal fit pairs.csv`

    - `polymodal fit clip-tiny --table pairs.csv --out runs/a trainer.epochs=5 trainer.lr=3e-4`

    - `polymodal fit lit --table pairs.csv model.init.image=pip:efficientnet-lite0 --dry-run`

    - `polymodal fit --config my.yaml trainer.batch_size=4096 trainer.chunk_size=256`

    - `polymodal fit houses.csv --target price,defect --dry-run`

    - `polymodal fit vqa.csv --target answer model.name=vilbert-tiny data.targets.answer.task=multiclass`

    - `polymodal fit --resume runs/a`
    """
    from polymodal.train import run as runs

    names = [word for word in recipe or [] if "=" not in word]
    overrides = [word for word in recipe or [] if "=" in word]
    try:
        if resume is not None:
            _alone(resume, names, config, table, out)
            done = runs.resume(resume, overrides)
        else:
            source, table = source_of("fit", names, config, table)
            if target:
                source, table = with_targets("fit", source, table, target), None
            prepared = runs.plan(source, table, overrides=overrides)
            if dry_run:
                _show_plan(prepared.plan(), as_json)
                return
            if not as_json:
                _show_plan(prepared.plan(), as_json)
            done = runs.carry_out(prepared, out)
    except KeyboardInterrupt as stop:
        say(str(stop) or "stopped")
        raise typer.Exit(130) from None
    _show(done, as_json)


def _alone(resume: Path, names: list[str], config: Path | None, table: Path | None, out: Path | None) -> None:
    if names or config or table or out:
        raise ConfigError(f"--resume {resume} goes on with that run's own recipe, table and folder: name no other")


def source_of(verb: str, names: list[str], config: Path | None, table: Path | None) -> tuple[Any, Path | None]:
    """The recipe and the table, from what was written after `polymodal VERB`."""
    given = [*names, *([str(config)] if config else [])]
    if len(given) == 2 and config is not None and table is None:
        return str(config), Path(names[0])
    if len(given) != 1:
        wanted = f"one recipe or one table (`polymodal {verb} pairs.csv`); changes are written key=value"
        raise ConfigError(f"{verb}: wanted {wanted}, got {', '.join(given) or 'none'}")
    return given[0], table


def with_targets(verb: str, source: str, table: Path | None, asked: list[str]) -> dict[str, Any]:
    """The recipe, or an empty one, with these targets."""
    from polymodal.config import read_yaml

    data: dict[str, Any] = {"model": {"kind": "multimodal"}}
    if source.endswith((".yaml", ".yml")):
        data = read_yaml(Path(source))
    elif table is None:
        table = Path(source)
    else:
        raise ConfigError(f"{verb} --target: wanted a table, or a recipe's file, got {source}")
    names = [name.strip() for names in asked for name in names.split(",") if name.strip()]
    where: dict[str, Any] = dict(data.get("data") or {})
    known = where.get("targets") or {}
    where["targets"] = {name: known.get(name, {}) if isinstance(known, dict) else {} for name in names}
    if table is not None:
        where["table"] = str(table)
    return data | {"data": where}


def _show_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    if "inputs" in plan:
        _show_several(plan)
        return
    rows, weights = plan["rows"], plan["parameters"]
    left_out = f", {rows['left_out']:,} left out" if rows["left_out"] else ""
    lines = {
        "recipe": f"{plan['recipe']} ({', '.join(plan['objectives'])})",
        "table": f"{plan['table']}: pictures in {plan['image']}, captions in {', '.join(plan['text'])}",
        "rows": f"{rows['train']:,} to train, {rows['val']:,} to validate ({rows['divided_by']}){left_out}",
        "weights": f"{weights['trained']:,} trained, {weights['frozen']:,} frozen",
        "steps": f"{plan['steps']:,} of {plan['batch_size']:,} pairs ({_epochs(plan)})",
        "device": f"{plan['device']}, {plan['precision']}",
    }
    for name, line in lines.items():
        say(f"{name:8} {line}")


def _show_several(plan: dict[str, Any]) -> None:
    """The plan of a model with several inputs, with the reason of every choice."""
    rows, weights = plan["rows"], plan["parameters"]
    say(f"table    {plan['table']}")
    say(f"rows     {rows['train']:,} to train, {rows['val']:,} to validate ({rows['divided_by']})")
    for choice in plan["choices"]:
        value = choice["value"] if len(choice["value"]) <= 120 else choice["value"][:117] + "..."
        say(f"  {choice['what']}: {value}; {choice['reason']}")
    say(f"weights  {weights['trained']:,} trained, {weights['frozen']:,} frozen")
    say(f"steps    {plan['steps']:,} of {plan['batch_size']:,} rows ({_epochs(plan)}); {', '.join(plan['objectives'])}")
    say(f"device   {plan['device']}, {plan['precision']}")


def _epochs(plan: dict[str, Any]) -> str:
    return f"{plan['epochs']:g} epoch{'s' * (plan['epochs'] != 1)}"


def _show(done: "Run", as_json: bool) -> None:
    report = _report(done) if done.plan.get("targets") else None
    if as_json:
        found = {} if report is None else {"report": str(done.folder / "report.html"), "measured": report.main()}
        print_json(done.to_dict() | found)
        return
    if "inputs" in done.plan:
        _show_measured(done, report)
        return
    validation = done.metrics.get("validation", {})
    directions = [name for name in ("image_to_text", "text_to_image") if name in validation]
    if directions:
        keys = [key for key in ("R@1", "R@5", "R@10", "median_rank") if key in validation[directions[0]]]
        print_table(
            ("validation", *keys),
            [[name.replace("_", " "), *(f"{validation[name][key]:.3g}" for key in keys)] for name in directions],
        )
    table = done.plan["table"]
    print(f"artifact  {done.artifact}")
    print(f"next      polymodal evaluate {done.folder} {table}")
    print(f'          polymodal query {done.folder} {table} --text "..."')


def _report(done: "Run") -> "TargetsReport | None":
    """What the model does on the rows that were kept apart, left as report.html; None where they have no labels."""
    from polymodal.errors import DataError
    from polymodal.evaluate import TargetsReport, evaluate

    try:
        report = evaluate(str(done.folder), done.plan["table"], out=done.folder, progress=True)
    except DataError as error:
        say(f"no report: {error}")
        return None
    assert isinstance(report, TargetsReport)
    return report


def _show_measured(done: "Run", report: "TargetsReport | None") -> None:
    """Each target's main metric on the rows that were kept apart."""
    table = done.plan["table"]
    if report is not None:
        print_targets(report, only_main=True)
        say_about(report, done.folder)
        print(f"report    {done.folder / 'report.html'}")
    print(f"artifact  {done.artifact}")
    if done.plan["targets"]:
        print(f"next      polymodal predict {done.folder} {table} --out predictions.csv")
        print(f"          polymodal ablate {done.folder} {table}")
    else:
        print(f"next      polymodal fit TABLE --target COLUMN model.start={done.folder}")
