"""`jstc bench`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jstc.cli import options
from jstc.cli.run import run_stage
from jstc.core.progress import Progress
from jstc.errors import InputError
from jstc.recipe.amounts import parse_batch_sizes

__all__ = ["bench"]

Batches = Annotated[
    list[str] | None, typer.Option("--batch", metavar="N,...", help="Batch sizes: 1,8,32; or repeat it.")
]
Providers = Annotated[
    str | None,
    typer.Option("--provider", metavar="NAME,...", help="auto, cpu, cuda, tensorrt; several with commas."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=0, help="onnxruntime's CPU threads; 0: its own choice.")
]
Memory = Annotated[
    bool | None,
    typer.Option("--memory/--no-memory", help="Measure peak memory, in a process for each file."),
]
Profile = Annotated[
    bool | None, typer.Option("--profile/--no-profile", help="Show where the time goes, by operator.")
]
Trace = Annotated[
    bool | None,
    typer.Option("--trace/--no-trace", help="Profile, and keep onnxruntime's traces as files."),
]


def bench(
    targets: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN | MODEL.onnx",
            help="A run (default: the newest), or ONNX files of any kind, compared with the first of them.",
        ),
    ] = None,
    provider: Providers = None,
    batch: Batches = None,
    threads: Threads = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Measuring time per batch size.")] = None,
    memory: Memory = None,
    profile: Profile = None,
    trace: Trace = None,
    settings: options.Set = None,
    fresh: options.Fresh = False,
    model: options.Model = None,
    allow_pickle: options.AllowPickle = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Time the networks of RUN, or ONNX files, in onnxruntime.

    Stages of RUN that it needs and that are missing run first; options replace those of its recipe.
    """
    from jstc.cli import bench_view
    from jstc.core import progress_view

    given = {"provider": provider, "threads": threads, "seconds": seconds, "memory": memory}
    changes = _changes(given | {"profile": profile}, batch=batch, trace=trace)
    from jstc.ort.sessions import onnx_files

    given_files = {path: onnx_files(path) for path in targets or ()}
    if any(found is not None for found in given_files.values()):
        paths = _paths(given_files)
        with progress_view.shown(quiet=quiet, verbose=verbose) as shown:
            found = _measured(paths, changes, settings or (), shown)
        bench_view.show(found, as_json=json, quiet=quiet, plain_files=True)
        return
    if len(targets or ()) > 1:
        raise InputError("give one run directory, or several ONNX files")
    run = targets[0] if targets else None
    run_stage(
        "bench",
        run,
        changes=changes,
        overrides=settings or (),
        fresh=fresh,
        model=model,
        allow_pickle=allow_pickle,
        json=json,
        quiet=quiet,
        verbose=verbose,
    )


def _changes(given: dict[str, Any], *, batch: list[str] | None, trace: bool | None) -> dict[str, Any]:
    """The recipe's keys that the options set; `trace` profiles, too."""
    if batch is not None:
        given["batch_sizes"] = parse_batch_sizes(batch)
    if trace is not None:
        given |= {"trace": trace} | ({"profile": True} if trace else {})
    return {f"bench.{key}": value for key, value in given.items() if value is not None}


def _paths(given: Mapping[Path, list[Path] | None]) -> list[Path]:
    paths: dict[Path, None] = {}
    for path, found in given.items():
        if found is None:
            raise InputError("give either one run directory or ONNX files, not both")
        if not found:
            raise InputError(f"{path} has no ONNX file to time", "write one there with jstc.export_onnx")
        paths |= dict.fromkeys(found)
    return list(paths)


def _measured(
    paths: list[Path], changes: dict[str, Any], overrides: Sequence[str], progress: Progress
) -> dict[str, Any]:
    from jstc.ort import bench, machine, sessions
    from jstc.recipe import loading

    for setting in overrides:
        if not setting.strip().startswith("bench."):
            raise InputError(f"--set {setting}: of ONNX files only keys of bench can be set")
    recipe = loading.from_flags({"model": "-", "dataset": "-", "flops": "1", **changes}, overrides)
    for path in paths:
        sessions.require_file(path)  # before the machine is looked at, which takes its time
    environment = machine.environment()  # first: its load is that before our own work
    found = bench.measure(
        {str(path): path for path in paths},
        settings=recipe.bench,
        traces=Path() if recipe.bench.trace else None,
        progress=progress,
    )
    return {**found.to_dict(), "profiles": found.profiles, "environment": environment}
