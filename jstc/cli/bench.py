"""`jstc bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from jstc.cli import options
from jstc.errors import InputError
from jstc.progress import Progress

__all__ = ["bench"]


def bench(
    targets: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN | MODEL.onnx", help="A run (default: the newest), or ONNX files."),
    ] = None,
    provider: options.Provider = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", min=1, help="Batch size; repeatable.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Measuring time per batch size.")] = None,
    fresh: options.Fresh = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Time the networks of RUN, or ONNX files, in onnxruntime.

    Stages of RUN that it needs and that are missing run first.
    """
    from jstc.cli import output

    onnx_files = [path for path in targets or () if path.suffix == ".onnx"]
    given = {"provider": provider.value if provider else None, "batch_sizes": batch, "seconds": seconds}
    settings = {key: value for key, value in given.items() if value is not None}
    if onnx_files:
        if len(onnx_files) != len(targets or ()):
            raise InputError("give either one run directory or ONNX files, not both")
        with output.progress(quiet=quiet, verbose=verbose) as shown:
            rows = _compare(onnx_files, settings, shown)
        output.bench(rows, as_json=json)
        return
    if len(targets or ()) > 1:
        raise InputError("give one run directory, or several ONNX files")
    if settings:
        raise InputError("a run is timed as its recipe says (bench: ...); the options are for ONNX files")
    run = targets[0] if targets else None
    output.run_stage("bench", run, fresh=fresh, json=json, quiet=quiet, verbose=verbose)


def _compare(paths: list[Path], settings: dict[str, Any], progress: Progress) -> list[dict[str, Any]]:
    from jstc import bench as timing
    from jstc import recipe_file

    keys = [f"bench.{key}={value}" for key, value in settings.items()]
    recipe = recipe_file.from_flags({"model": "-", "dataset": "-", "flops": "1"}, keys)
    rows = timing.compare({str(path): path for path in paths}, settings=recipe.bench, progress=progress)
    return [row.to_dict() for row in rows]
