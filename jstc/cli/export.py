"""`jstc export`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from jstc.cli import options, precisions
from jstc.errors import InputError

__all__ = ["export"]


class FloatName(StrEnum):
    """Types of inputs and outputs of an fp16 file."""

    float32 = "float32"
    float16 = "float16"


def export(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN",
            help="Run directory, or one budget's in it; the newest under runs/ if left out.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", metavar="NAME...", help="fp32, fp16, int8: one or several."),
    ] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            "--max-accuracy-drop",
            metavar="POINTS",
            help="Percentage points that a precision may lose against torch; exit code 3 beyond.",
        ),
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="N", help="Fixed batch size; 'dynamic' for any.")
    ] = None,
    opset: Annotated[int | None, typer.Option("--opset", help="ONNX opset.")] = None,
    with_preprocess: Annotated[
        bool | None,
        typer.Option(
            "--with-preprocess/--without-preprocess",
            help="Also write files that take uint8 images of any size and give classes.",
            show_default=False,
        ),
    ] = None,
    fp16_io: Annotated[
        FloatName | None, typer.Option("--fp16-io", help="Type of the inputs and outputs of fp16.")
    ] = None,
    settings: options.Set = None,
    fresh: options.Fresh = False,
    model: options.Model = None,
    allow_pickle: options.AllowPickle = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Write the slim network of RUN as ONNX, and verify it.

    Each of several precisions is a file of its own. Stages that it needs and that are
    missing run first. Options stay in the run's recipe.
    """
    from jstc.cli import output

    _require_own(settings or ())
    run, named = precisions.told_apart(words or (), precision or ())
    given = {
        "precisions": named or None,
        "max_accuracy_drop": max_accuracy_drop,
        "batch": int(batch) if batch and batch.isdecimal() else batch,
        "opset": opset,
        "with_preprocess": with_preprocess,
        "fp16_io": fp16_io.value if fp16_io else None,
    }
    changes = {f"export.{key}": value for key, value in given.items() if value is not None}
    output.run_stage(
        "export",
        run,
        changes=changes,
        overrides=settings or (),
        fresh=fresh,
        json=json,
        quiet=quiet,
        verbose=verbose,
        consent=options.consent(model, pickle=allow_pickle),
    )


def _require_own(settings: Sequence[str]) -> None:
    for setting in settings:
        if not setting.startswith("export."):
            raise InputError(f"--set {setting}: here only keys of export can be set, such as export.opset")
