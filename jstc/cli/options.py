"""Options and arguments that several commands share, each written once."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstc.cli.exit_codes import show_tracebacks
from jstc.core import processes

if TYPE_CHECKING:
    from jstc.models import Permissions

__all__ = [
    "AllowPickle",
    "AnyProvider",
    "Cifar",
    "Data",
    "Debug",
    "Device",
    "DeviceName",
    "DryRun",
    "Fresh",
    "Json",
    "LatencyProviderName",
    "Model",
    "Out",
    "Provider",
    "ProviderName",
    "Quiet",
    "Run",
    "Seed",
    "Set",
    "Verbose",
    "Weights",
    "command_line",
    "permissions",
]


class DeviceName(StrEnum):
    """Where to train."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class ProviderName(StrEnum):
    """Where onnxruntime runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


class LatencyProviderName(StrEnum):
    """Where a budget of latency may be meant."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def _debug(wanted: bool) -> bool:
    if wanted:
        show_tracebacks(True)
    return wanted


Debug = Annotated[
    bool, typer.Option("--debug", callback=_debug, is_eager=True, help="Show tracebacks of errors.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only results and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="A line for every round and epoch.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything and say what would be done; do nothing.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over instead of continuing.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Run directory; default: one under runs/.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key of the recipe (docs/recipe.md); repeatable."),
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of every random choice.")]
Device = Annotated[
    DeviceName | None, typer.Option("--device", help="Where to train; auto: on a GPU if there is one.")
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The dataset's folder, or a pattern of its files."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        help="Start from this file of weights; or by name from published ones: default, IMAGENET1K_V2 ...",
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", help="Unpickle the weights if need be: it runs any code that is in the file."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Allow that RUN's network is built from code, by its name: net.py:make.",
    ),
]
Cifar = Annotated[
    bool, typer.Option("--cifar", help="The network's form for 32x32 images, whatever their size.")
]
Provider = Annotated[
    LatencyProviderName | None,
    typer.Option("--provider", help="onnxruntime's provider that a budget of latency is for."),
]
AnyProvider = Annotated[ProviderName | None, typer.Option("--provider", help="onnxruntime's provider.")]
Run = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN", help="Run directory, or one budget's in it; the newest under runs/ if left out."
    ),
]


def permissions(model: str | None, *, pickle: bool) -> Permissions:
    """What the command line allows; no file can."""
    from jstc.models import Permissions

    return Permissions(model, pickle)


def command_line() -> str:
    """What the user typed, so that it can be typed again to continue."""
    return shlex.join([*_program(), *(word for word in sys.argv[1:] if word != "--fresh")])


def _program() -> list[str]:
    if not processes.several():
        return ["jstc"]
    each, machines = processes.local_world(), processes.world() // processes.local_world()
    several = [f"--nnodes={machines}"] if machines > 1 else []
    return ["torchrun", *several, f"--nproc-per-node={each}", "-m", "jstc"]
