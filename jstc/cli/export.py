"""`jstc export`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from jstc.cli import options
from jstc.cli.run import run_stage
from jstc.errors import InputError, UnknownNameError

__all__ = ["KNOWN", "export", "told_apart"]

# `--precision fp32 fp16 int8`: an option that takes one value or several, told apart from the run.

KNOWN = ("fp32", "fp16", "int8")  # those of the recipe, which is too heavy to load for --help

_LIST = "precisions are fp32, fp16 and int8"


def told_apart(words: Sequence[str], given: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The run and the precisions: `given` are the option's own values, `words` stand beside it, in any order.

    A value may hold several names (`fp32,int8`). Raises `InputError` for several runs, `UnknownNameError` for
    what is neither a precision nor a run.
    """
    named = [name for value in given for name in _names(value)]
    for name in named:
        if name not in KNOWN:
            raise _unknown(name)
    runs = []
    for word in words:
        if given and all(name in KNOWN for name in _names(word)):
            named += _names(word)
        else:
            runs.append(word)
    return _run(runs, given), named


def _names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name] or [text]


def _run(words: Sequence[str], given: Sequence[str]) -> Path | None:
    missing = next((word for word in words if not Path(word).exists()), None)
    if missing is not None:
        raise _missing(missing, given)
    if len(words) > 1:
        raise InputError(f"give one run directory, not {' and '.join(words)}")
    return Path(words[0]) if words else None


def _missing(word: str, given: Sequence[str]) -> InputError:
    from jstc.runs import directory

    if not given:
        if word in KNOWN:
            return InputError(f"no run directory at {word}", f"for a precision: --precision {word}")
        return directory.no_run(Path(word))
    unknown = _unknown(word)  # of a name that is mistyped either could have been meant
    return unknown if unknown.near else directory.no_run(Path(word))


def _unknown(name: str) -> UnknownNameError:
    part = next((part for part in _names(name) if part not in KNOWN), name)
    return UnknownNameError("precision", part, KNOWN, f"({_LIST})")


class FloatName(StrEnum):
    """Types of inputs and outputs of an fp16 file."""

    float32 = "float32"
    float16 = "float16"


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN",
        help="Run directory, or one budget's in it; the newest under runs/ if left out.",
        show_default=False,
    ),
]
Precisions = Annotated[
    list[str] | None,
    typer.Option("--precision", metavar="NAME...", help="fp32, fp16, int8: one or several."),
]
MaxAccuracyDrop = Annotated[
    float | None,
    typer.Option(
        "--max-accuracy-drop",
        metavar="POINTS",
        help="Percentage points that a precision may lose against torch; exit code 3 beyond.",
    ),
]
Batch = Annotated[
    str | None, typer.Option("--batch", metavar="N", help="Fixed batch size; 'dynamic' for any.")
]
Opset = Annotated[int | None, typer.Option("--opset", help="ONNX opset.")]
WithPreprocess = Annotated[
    bool | None,
    typer.Option(
        "--with-preprocess/--without-preprocess",
        help="Also write files that take uint8 images of any size and give classes.",
        show_default=False,
    ),
]
Fp16Io = Annotated[
    FloatName | None, typer.Option("--fp16-io", help="Type of the inputs and outputs of fp16.")
]


def export(
    words: Words = None,
    precision: Precisions = None,
    max_accuracy_drop: MaxAccuracyDrop = None,
    batch: Batch = None,
    opset: Opset = None,
    with_preprocess: WithPreprocess = None,
    fp16_io: Fp16Io = None,
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
    run, named = told_apart(words or (), precision or ())
    given = {
        "precisions": named or None,
        "max_accuracy_drop": max_accuracy_drop,
        "batch": int(batch) if batch and batch.isdecimal() else batch,
        "opset": opset,
        "with_preprocess": with_preprocess,
        "fp16_io": fp16_io.value if fp16_io else None,
    }
    changes = {f"export.{key}": value for key, value in given.items() if value is not None}
    run_stage(
        "export",
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
