"""`jstc compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jstc.cli import options
from jstc.errors import GateError

__all__ = ["compare"]

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
    from jstc import compare as comparing
    from jstc.cli import compare_output, output
    from jstc.pipeline.comparing import compare_runs, places

    written: dict[comparing.Kind, str | None] = {
        "flops": flops,
        "params": params,
        "bytes": size,
        "accuracy": accuracy,
        "max_abs_diff": difference,
        "top1_agreement": agreement,
        "latency": slowdown,
    }
    settings = comparing.Settings(
        limits=comparing.limits(written),
        allow_missing=allow_missing,
        allow_different=allow_different,
        fail_unclear=fail_unclear,
        threads=threads,
        places=places(provider, batch),
    )
    with output.progress(quiet=quiet, verbose=False) as shown:
        found = compare_runs(base, new, settings=settings, measured=measure, seconds=seconds, progress=shown)
    compare_output.show(found, as_json=json, quiet=quiet)
    compare_output.write(found, markdown=markdown, junit=junit)
    if found.failures:
        raise GateError(compare_output.failure(found))
