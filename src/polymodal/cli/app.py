"""The list of verbs, and what becomes of errors."""

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from polymodal.errors import ConfigError, PolymodalError, did_you_mean
from polymodal.version import __version__

VERBS = {
    "check": "Open every picture and text of a table; list the faults by row and column.",
    "split": "Divide a table into train, val and test.",
    "preview": "Draw a contact sheet of pictures and captions, with or without augmentation.",
    "fit": "Train a model by a recipe on a table.",
    "profile": "Measure where the time of a training step goes, and what share of the machine's limit it reaches.",
    "compare": "Train several fusions alike on a table, and each input alone; say which is best.",
    "evaluate": "Measure a model on a table; write report.json and report.html.",
    "ablate": "Measure what each input of a model is worth: metrics of every subset of inputs.",
    "compress": "Make an artifact smaller and faster by a chain of steps; print what each costs.",
    "distill": "Train a new model with trained ones as its teachers.",
    "ensemble": "Combine trained models into one artifact that predicts better than each of them.",
    "soup": "Average the weights of models that were fine-tuned from the same start.",
    "export": "Write a model as ONNX, OpenVINO IR or a torch.export program, and prove that it says the same.",
    "predict": "Predict the targets of every row of a table, or of one row by hand.",
    "embed": "Turn the pictures or texts of a table into vectors.",
    "query": "Ask a table: text or picture in, nearest pictures or texts out.",
    "classify": "Name pictures by labels the model was never trained on (zero-shot).",
    "models": "List the models and recipes known by name; read or convert a released checkpoint.",
    "bench": "Time every backend and precision here; say how near their answers are.",
    "doctor": "Report versions, conflicts, CPU, GPU and disk; check an artifact's files.",
}


class _Verbs(TyperGroup):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return TyperCommand(cmd_name, help=VERBS[cmd_name])  # enough for the list of verbs

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, *rest = args
        if name not in VERBS:
            ctx.fail(f'no command is named "{name}"{did_you_mean(name, VERBS)}')
        return name, _load(name), rest


def _load(name: str) -> Any:
    run = import_module(f"polymodal.cli.{name}").run
    verb = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    verb.command(name=name, help=run.__doc__)(run)
    command = typer.main.get_command(verb)
    command.no_args_is_help = any(parameter.required for parameter in command.params)
    return command


app = typer.Typer(
    cls=_Verbs,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Train, evaluate and use multimodal models: checked data in, a searchable model out.",
    epilog="Start: `polymodal check pairs.csv`, then `polymodal fit pairs.csv --out runs/a`.",
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of `polymodal` and `python -m polymodal`."""
    try:
        app()
    except ConfigError as error:
        _say(error)
        sys.exit(2)
    except PolymodalError as error:
        _say(error)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _say(error: PolymodalError) -> None:
    from rich.console import Console  # rich is slow to import and errors are rare

    Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
