"""`jstc compare`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jstc.cli import console, options
from jstc.errors import GateError, InputError

if TYPE_CHECKING:
    from jstc.gate import GateReport

__all__ = ["compare", "failure", "show", "write"]

Limit = "PERCENT|off"
Points = "POINTS|off"


def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="A run directory, or its summary.json.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The run that is to be judged, likewise.")],
    flops: Annotated[
        str | None,
        typer.Option("--max-flops-increase", metavar=Limit, help="Default 0%, or up to the common budget."),
    ] = None,
    params: Annotated[
        str | None,
        typer.Option("--max-params-increase", metavar=Limit, help="Default 5%, or up to the common budget."),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--max-bytes-increase", metavar=Limit, help="Of each file. Default 5%.")
    ] = None,
    accuracy: Annotated[
        str | None,
        typer.Option("--max-accuracy-drop", metavar=Points, help="In percentage points. Default 0.5."),
    ] = None,
    difference: Annotated[
        str | None,
        typer.Option(
            "--max-diff-increase", metavar=Limit, help="Torch against ONNX, above 1e-4. Default 200%."
        ),
    ] = None,
    agreement: Annotated[
        str | None,
        typer.Option("--max-agreement-drop", metavar=Points, help="Top-1, torch and ONNX. Default 0.5."),
    ] = None,
    slowdown: Annotated[
        str | None, typer.Option("--max-slowdown", metavar=Limit, help="Ratio of latencies. Default 5%.")
    ] = None,
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="Time both runs' files here, in turns. Default: where both are run directories.",
        ),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option("--provider", metavar="NAME,...", help="Time there. Default: as the runs were timed."),
    ] = None,
    batch: Annotated[
        list[str] | None, typer.Option("--batch", metavar="N,...", help="Likewise; 1,8,32, or repeat it.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=0, help="Likewise; 1 is steadiest on a busy machine."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.01, max=60, help="Of one timing; each is repeated.")
    ] = 0.25,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="What only BASE has is no failure.")
    ] = False,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Other models and datasets, too.")
    ] = False,
    fail_unclear: Annotated[
        bool, typer.Option("--fail-unclear", help="A slowdown that cannot be ruled out is a failure.")
    ] = False,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write a Markdown table.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML, a test for every gate.")
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Gate NEW on BASE: cost, size, parity, accuracy, latency ratio. Exit code 3: a gate said no.

    In GitHub Actions the table is added to the job's summary, and failures are annotated.
    """
    from jstc import gate
    from jstc.cli import results
    from jstc.runs.compared_runs import compare_runs, places

    written: dict[gate.Kind, str | None] = {
        "flops": flops,
        "params": params,
        "bytes": size,
        "accuracy": accuracy,
        "max_abs_diff": difference,
        "top1_agreement": agreement,
        "latency": slowdown,
    }
    settings = gate.Settings(
        limits=gate.limits(written),
        allow_missing=allow_missing,
        allow_different=allow_different,
        fail_unclear=fail_unclear,
        threads=threads,
        places=places(provider, batch),
    )
    with results.progress(quiet=quiet, verbose=False) as shown:
        found = compare_runs(base, new, settings=settings, measured=measure, seconds=seconds, progress=shown)
    show(found, as_json=json, quiet=quiet)
    write(found, markdown=markdown, junit=junit)
    if found.failures:
        raise GateError(failure(found))


# Where the outcome of `jstc compare` goes: the terminal, files, and GitHub Actions when it runs us.


def show(found: GateReport, *, as_json: bool, quiet: bool) -> None:
    """The gates on stdout, as a table or as JSON; remarks on stderr."""
    from jstc import gate

    if as_json:
        console.document(found.to_dict())
    else:
        # A table for each budget: its name in every row would not leave enough for the figures.
        for budget in dict.fromkeys(one.budget for one in found.gates):
            rows = gate.rows([g for g in found.gates if g.budget == budget], with_budget=False)
            console.table((budget or "gate", *gate.HEADER[1:]), rows, numbers_from=1, numbers_to=5)
    if quiet or as_json:
        return
    for remark in gate.remarks(found):
        console.note(remark)
    if not found.failures:
        console.note(gate.headline(found))


def write(found: GateReport, *, markdown: Path | None, junit: Path | None) -> None:
    """The files that were asked for; in GitHub Actions the job's summary and the annotations."""
    from jstc import gate

    for path, content in (
        (markdown, gate.markdown(found).encode()),
        (junit, gate.junit(found)),
    ):
        if path is not None:
            _write(path, content)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        _append(Path(summary), gate.markdown(found))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        # The runner reads both streams; stdout is for results.
        for line in gate.workflow_commands(found):
            console.note(line)


def failure(found: GateReport) -> str:
    """The message of the gates that say no."""
    from jstc import gate

    return "\n".join([gate.headline(found), *(f"  {gate.line(failed)}" for failed in found.failures)])


def _write(path: Path, content: bytes) -> None:
    from jstc.core import files

    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a directory")
    try:
        files.write_bytes(path, content)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"GITHUB_STEP_SUMMARY: cannot write {path}: {error.strerror}") from None
