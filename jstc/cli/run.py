"""`jstc run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jstc.cli import options

__all__ = ["run"]


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; see recipes/.")],
    out: options.Out = None,
    settings: options.Set = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="The network.")] = None,
    data: options.Data = None,
    weights: options.Weights = None,
    seed: options.Seed = None,
    device: options.Device = None,
    fresh: options.Fresh = False,
    allow_pickle: options.AllowPickle = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Run all stages of a recipe, or continue where they stopped.

    A list of budgets in the recipe (flops: [0.7, 0.5]) shares one search; the other stages run for each.
    """
    from jstc import files, recipe_file
    from jstc.cli import output
    from jstc.data.catalogue import refuse_idle_root
    from jstc.pipeline import chain, run_directory

    flags = {
        "model": model,
        "data": data,
        "weights": weights,
        "seed": seed,
        "device": device.value if device else None,
    }
    loaded = recipe_file.load(recipe, settings or (), flags)
    refuse_idle_root(loaded.dataset, data)
    # What a recipe of one's own names is one's own word; the recipe in a run directory may be anybody's.
    foreign = run_directory.holds(recipe) and model is None
    with output.progress(quiet=quiet, verbose=verbose) as shown:
        path = chain.run(
            loaded,
            out=out,
            fresh=fresh,
            command=options.command_line(),
            progress=shown,
            consent=options.consent(None if foreign else loaded.model, pickle=allow_pickle),
        )
    output.summary(files.read_json(path / "summary.json"), path, as_json=json, quiet=quiet)
