"""The commands, in the order in which they are listed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, ParamSpec

import typer
from typer.core import TyperCommand

from jstc._version import __version__
from jstc.cli import bench, compare, evaluate, export, init, inspect, lists, report, run, search
from jstc.errors import InputError, near_names

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
    """A network, a dataset and a budget in; a smaller, trained network as verified ONNX out.

    To see it work: `jstc run quickstart`, a few minutes on two cores, without a download.
    For a network of your own: `jstc init`, then `jstc run` with the file that it writes.
    """


_SECTIONS = {
    "finetune": "finetune.",
    "slim": "checkpoint.",  # it has no section of its own, and may set what changes no number
    "export": "export.",
    "bench": "bench.",
    "inspect": "channels.",
}
"""Commands whose `--set` sets the keys of one section of a recipe only."""


class _Command(TyperCommand):
    """A command that answers an option which it does not have with what may be meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click; raises `InputError` for an unknown option."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # click's NoSuchOption, which typer takes from click or brings along, as its version has it
            option = str(getattr(error, "option_name", ""))
            if not hasattr(error, "possibilities") or not option.startswith("--"):
                raise
            raise self._unknown(option, given) from None

    def _unknown(self, option: str, given: Sequence[str]) -> InputError:
        own = [name for one in self.params for name in one.opts if name.startswith("--")]
        found = self._settings(option, own, given) if "--set" in own else []
        others = [name.removeprefix("--") for name in own if name != "--set"]
        near = near_names(option.removeprefix("--"), others)
        found += [f"--{name}" for name in near if f"--{name}" not in found]
        called = f"jstc {self.name}"
        advice = f"did you mean {' or '.join(found[:3])}?" if found else f"`{called} -h` lists its options"
        return InputError(f"{called} has no option {option}", advice)

    def _settings(self, option: str, own: Sequence[str], given: Sequence[str]) -> list[str]:
        """What sets the recipe's keys that may be meant: an option of their own, or `--set KEY=VALUE`."""
        from jstc.recipe.explain import meant

        keys = meant(option.removeprefix("--").replace("-", "_"))
        keys = [key for key in keys if key.startswith(_SECTIONS.get(self.name or "", ""))]
        value = _value(option, given)
        return [f"--{key}" if f"--{key}" in own else f"--set {key}={value}" for key in keys]


def _value(option: str, given: Sequence[str]) -> str:
    """What was given for the option, as a shell takes it."""
    for word, following in zip(given, [*given[1:], "-"], strict=True):
        if word.startswith(f"{option}="):
            return shlex.quote(word.removeprefix(f"{option}="))
        if word == option and not following.startswith("-"):
            return shlex.quote(following)
    return "VALUE"


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
    app.command(_name, cls=_Command)(_with_stdout_for_results(_function))
