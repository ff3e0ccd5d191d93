"""`jstc search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstc.cli import options
from jstc.errors import RecipeError

if TYPE_CHECKING:
    from jstc.recipe.schema import Recipe

__all__ = ["search"]


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A name that `jstc models` lists, or your own file.py:function."),
]
Dataset = Annotated[
    str | None, typer.Option("--dataset", metavar="NAME", help="A name that `jstc datasets` lists.")
]
Flops = Annotated[
    list[str] | None,
    typer.Option(
        "--flops",
        metavar="X[,X...]",
        help="Most FLOPs: a share (0.5) or a count (500M); several (0.7,0.5) share one search.",
    ),
]
Params = Annotated[
    list[str] | None,
    typer.Option("--params", metavar="X[,X...]", help="Most parameters; with --flops, both are met."),
]
Latency = Annotated[
    list[str] | None,
    typer.Option(
        "--latency",
        metavar="X[,X...]",
        help="Most time in onnxruntime: 2ms, or a share (0.5); also with the others.",
    ),
]
Batch = Annotated[
    int | None, typer.Option("--batch", min=1, help="Images at once that a budget of latency is for.")
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=0, help="onnxruntime's threads that a budget of latency is for."),
]
Template = Annotated[
    Path | None, typer.Option("--recipe", metavar="FILE", help="Take all other settings from a recipe.")
]


def search(
    model: Model,
    dataset: Dataset = None,
    data: options.Data = None,
    flops: Flops = None,
    params: Params = None,
    latency: Latency = None,
    provider: options.Provider = None,
    batch: Batch = None,
    threads: Threads = None,
    recipe: Template = None,
    out: options.Out = None,
    settings: options.Set = None,
    weights: options.Weights = None,
    cifar: options.Cifar = False,
    seed: options.Seed = None,
    device: options.Device = None,
    dry_run: options.DryRun = False,
    fresh: options.Fresh = False,
    allow_pickle: options.AllowPickle = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Search the best sub-network of MODEL within a budget.

    `jstc export` goes on from there: it trains the sub-network to the end, and writes it. Bounds of
    several kinds (--flops 0.5 --params 0.4) are all met. Several budgets (--flops 0.7,0.5) share one
    search; each has a run directory of its own in the run's.
    """
    from jstc.cli import results
    from jstc.core import progress_view
    from jstc.runs import commands

    flags = {
        "model": model,
        "dataset": dataset,
        "data": data,
        "flops": _joined(flops),
        "params": _joined(params),
        "latency": _joined(latency),
        "latency_on.provider": provider.value if provider else None,
        "latency_on.batch": batch,
        "latency_on.threads": threads,
        "weights": weights,
        "cifar": cifar or None,
        "seed": seed,
        "device": device.value if device else None,
    }
    loaded = _loaded(flags, recipe, settings or (), data)
    permissions = options.permissions(loaded.model, pickle=allow_pickle)
    if dry_run:
        with progress_view.shown(quiet=quiet, verbose=verbose) as shown:
            rows = commands.try_out(
                loaded, out=out, only=["search"], fresh=fresh, progress=shown, permissions=permissions
            )
        results.outline(rows, as_json=json)
        return
    with progress_view.shown(quiet=quiet, verbose=verbose) as shown:
        path = commands.run(
            loaded,
            out=out,
            only=["search"],
            fresh=fresh,
            command=options.command_line(),
            progress=shown,
            permissions=permissions,
        )
    results.stage(path, "search", as_json=json, quiet=quiet)


def _joined(amounts: Sequence[str] | None) -> str | None:
    """The value of an option that was given once or more often, as of a list: none of them is dropped."""
    return ",".join(amounts) if amounts else None


def _loaded(
    flags: Mapping[str, object], template: Path | None, overrides: Sequence[str], data: Path | None
) -> Recipe:
    from jstc.data.datasets import refuse_idle_root
    from jstc.recipe import loading

    recipe = loading.load(template, overrides, flags) if template else loading.from_flags(flags, overrides)
    refuse_idle_root(recipe.dataset, data)
    _refuse_idle(flags, given=recipe.latency is not None)
    return recipe


def _refuse_idle(flags: Mapping[str, object], *, given: bool) -> None:
    """What would have no effect was meant otherwise."""
    for name in ("provider", "batch", "threads"):
        if flags[f"latency_on.{name}"] is not None and not given:
            raise RecipeError(f"--{name} says where a latency is meant: give --latency as well, such as 2ms")
