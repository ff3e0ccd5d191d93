"""`jstc run`, and what commands of one stage have in common: `finetune` and `slim` are no more than that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jstc.cli import options

__all__ = ["finetune", "run", "run_stage", "slim"]


def run(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE", help="A YAML file, or a recipe that comes with jstc, such as quickstart."
        ),
    ],
    out: options.Out = None,
    settings: options.Set = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="The network, instead of the recipe's.")
    ] = None,
    data: options.Data = None,
    weights: options.Weights = None,
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
    """Run all stages of a recipe, or continue where they stopped.

    The stages are search, finetune, slim, export, bench and report. A list of budgets in the recipe
    (flops: [0.7, 0.5]) shares one search; the other stages run for each.
    """
    from jstc import summary
    from jstc.cli import results
    from jstc.core import progress_view
    from jstc.data.datasets import refuse_idle_root
    from jstc.recipe import loading
    from jstc.runs import commands

    flags = {
        "model": model,
        "data": data,
        "weights": weights,
        "seed": seed,
        "device": device.value if device else None,
    }
    loaded = loading.load(recipe, settings or (), flags)
    refuse_idle_root(loaded.dataset, data)
    # A recipe may be anybody's, wherever it lies: only words of the command line say whose code is run.
    named = model is not None or any(text.partition("=")[0].strip() == "model" for text in settings or ())
    permissions = options.permissions(loaded.model if named else None, pickle=allow_pickle)
    if dry_run:
        with progress_view.shown(quiet=quiet, verbose=verbose) as shown:
            rows = commands.try_out(loaded, out=out, fresh=fresh, progress=shown, permissions=permissions)
        results.outline(rows, as_json=json)
        return
    with progress_view.shown(quiet=quiet, verbose=verbose) as shown:
        path = commands.run(
            loaded,
            out=out,
            fresh=fresh,
            command=options.command_line(),
            progress=shown,
            permissions=permissions,
        )
    results.summary(summary.load(path / "summary.json"), path, as_json=json, quiet=quiet)


def run_stage(
    name: str,
    run: Path | None,
    *,
    changes: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    fresh: bool,
    model: str | None,
    allow_pickle: bool,
    json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Run one stage of a run directory and show its result; `changes` and `overrides` go to its recipe.

    `model` and `allow_pickle` are what the command line allows.
    """
    from jstc.cli import console, results
    from jstc.core import progress_view
    from jstc.recipe import loading
    from jstc.runs import commands, directory

    path = run or directory.newest_run(say=console.note)
    recipe = directory.read_recipe(path)
    if changes or overrides:
        recipe = loading.load(path / "recipe.yaml", overrides, flags=changes)
    with progress_view.shown(quiet=quiet, verbose=verbose) as shown:
        commands.run_stage(
            path,
            name,
            recipe=recipe,
            fresh=fresh,
            command=options.command_line(),
            progress=shown,
            permissions=options.permissions(model, pickle=allow_pickle),
        )
    results.stage(path, name, as_json=json, quiet=quiet)


def finetune(
    run: options.Run = None,
    settings: options.Set = None,
    fresh: options.Fresh = False,
    model: options.Model = None,
    allow_pickle: options.AllowPickle = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Train the sub-network that the search of RUN chose, to the end.

    Of several budgets, that of each. `--set finetune.epochs=100` trains it again, longer;
    what was built on the old one is removed.
    """
    run_stage(
        "finetune",
        run,
        overrides=settings or (),
        fresh=fresh,
        model=model,
        allow_pickle=allow_pickle,
        json=json,
        quiet=quiet,
        verbose=verbose,
    )


def slim(
    run: options.Run = None,
    settings: options.Set = None,
    fresh: options.Fresh = False,
    model: options.Model = None,
    allow_pickle: options.AllowPickle = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Write the slim network of RUN as an ordinary PyTorch module.

    `jstc.load("RUN/slim")` loads it. Stages that it needs and that are missing run first.
    """
    run_stage(
        "slim",
        run,
        overrides=settings or (),
        fresh=fresh,
        model=model,
        allow_pickle=allow_pickle,
        json=json,
        quiet=quiet,
        verbose=verbose,
    )
