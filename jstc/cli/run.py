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
    data: options.Data = None,
    weights: options.Weights = None,
    seed: options.Seed = None,
    device: options.Device = None,
    fresh: options.Fresh = False,
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
    from jstc.pipeline import chain

    flags = {"data": data, "weights": weights, "seed": seed, "device": device.value if device else None}
    loaded = recipe_file.load(recipe, settings or (), flags)
    with output.progress(quiet=quiet, verbose=verbose) as shown:
        path = chain.run(loaded, out=out, fresh=fresh, command=options.command_line(), progress=shown)
    output.summary(files.read_json(path / "summary.json"), path, as_json=json, quiet=quiet)
