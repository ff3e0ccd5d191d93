"""The commands, in the order in which they are listed."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, ParamSpec

import typer

from jstc._version import __version__
from jstc.cli import bench, compare, evaluate, export, init, inspect, lists, report, run, search

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # our own handler decides what is shown
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jstc {__version__}")
        raise typer.Exit


@app.callback()
def jstc(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A network, a dataset and a budget in; a smaller, trained network as verified ONNX out."""


_COMMANDS: dict[str, Callable[..., None]] = {
    "init": init.init,
    "run": run.run,
    "search": search.search,
    "finetune": run.finetune,
    "slim": run.slim,
    "export": export.export,
    "bench": bench.bench,
    "eval": evaluate.evaluate,
    "report": report.report,
    "compare": compare.compare,
    "inspect": inspect.inspect,
    "models": lists.models,
    "datasets": lists.datasets,
    "doctor": lists.doctor,
    "schema": lists.schema,
}

_P = ParamSpec("_P")


def _with_stdout_for_results(command: Callable[_P, None]) -> Callable[_P, None]:
    @wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        from jstc.cli import console

        with console.for_results_alone():
            command(*args, **kwargs)

    return run


for _name, _function in _COMMANDS.items():
    app.command(_name)(_with_stdout_for_results(_function))
