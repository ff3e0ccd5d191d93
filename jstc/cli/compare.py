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


Base = Annotated[
    Path, typer.Argument(metavar="BASE", help="A run directory, its summary.json, or an ONNX file.")
]
New = Annotated[Path, typer.Argument(metavar="NEW", help="What is to be judged, likewise.")]
MaxFlopsIncrease = Annotated[
    str | None,
    typer.Option(
        "--max-flops-increase", metavar=Limit, help="Of FLOPs. Default 0%, or up to the common budget."
    ),
]
MaxParamsIncrease = Annotated[
    str | None,
    typer.Option(
        "--max-params-increase", metavar=Limit, help="Of parameters. Default 5%, or up to the common budget."
    ),
]
MaxBytesIncrease = Annotated[
    str | None, typer.Option("--max-bytes-increase", metavar=Limit, help="Of each file. Default 5%.")
]
MaxAccuracyDrop = Annotated[
    str | None,
    typer.Option("--max-accuracy-drop", metavar=Points, help="Percentage points of top-1. Default 0.5."),
]
MaxDiffIncrease = Annotated[
    str | None,
    typer.Option(
        "--max-diff-increase",
        metavar=Limit,
        help="Of the logits' difference between torch and ONNX, above 1e-4. Default 200%.",
    ),
]
MaxAgreementDrop = Annotated[
    str | None,
    typer.Option(
        "--max-agreement-drop",
        metavar=Points,
        help="Percentage points of images on which torch and ONNX agree. Default 0.5.",
    ),
]
MaxSlowdown = Annotated[
    str | None, typer.Option("--max-slowdown", metavar=Limit, help="Of the latency, new to base. Default 5%.")
]
Measure = Annotated[
    bool | None,
    typer.Option(
        "--measure/--no-measure",
        help="Time both sides' files here, in turns. Default: where both have ONNX files.",
    ),
]
Provider = Annotated[
    str | None,
    typer.Option(
        "--provider", metavar="NAME,...", help="Providers to time on. Default: as the runs were timed."
    ),
]
Batch = Annotated[
    list[str] | None,
    typer.Option("--batch", metavar="N,...", help="Batch sizes to time at: 1,8,32. Default: likewise."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads", min=0, help="Threads to time with; 1 is steadiest on a busy machine. Default: likewise."
    ),
]
Seconds = Annotated[
    float, typer.Option("--seconds", min=0.01, max=60, help="Length of one timing; each is repeated.")
]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="What only BASE has is no failure.")]
AllowDifferent = Annotated[
    bool, typer.Option("--allow-different", help="Compare runs of different models or datasets, too.")
]
FailUnclear = Annotated[
    bool,
    typer.Option(
        "--fail-unclear", help="A slowdown that cannot be ruled out, or a drop within the noise, fails."
    ),
]
Markdown = Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write a Markdown table.")]
Junit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML, a test for every gate.")
]


def compare(
    base: Base,
    new: New,
    flops: MaxFlopsIncrease = None,
    params: MaxParamsIncrease = None,
    size: MaxBytesIncrease = None,
    accuracy: MaxAccuracyDrop = None,
    difference: MaxDiffIncrease = None,
    agreement: MaxAgreementDrop = None,
    slowdown: MaxSlowdown = None,
    measure: Measure = None,
    provider: Provider = None,
    batch: Batch = None,
    threads: Threads = None,
    seconds: Seconds = 0.25,
    allow_missing: AllowMissing = False,
    allow_different: AllowDifferent = False,
    fail_unclear: FailUnclear = False,
    markdown: Markdown = None,
    junit: Junit = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Compare two runs, for CI: exit code 3 where NEW is worse.

    Two ONNX files of any network will do, too, or two folders of `Slim.save` with such files.
    Gates on FLOPs, parameters, file sizes, parity, accuracy and the ratio of latencies; each is off
    with its limit `off`. In GitHub Actions the table is added to the job's summary, and failures are
    annotated.
    """
    from jstc import gate
    from jstc.cli import compare_view
    from jstc.core import progress_view
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
    with progress_view.shown(quiet=quiet, verbose=False) as shown:
        found = compare_runs(base, new, settings=settings, measured=measure, seconds=seconds, progress=shown)
    compare_view.show(found, as_json=json, quiet=quiet)
    compare_view.write(found, markdown=markdown, junit=junit)
    if found.failures:
        raise GateError(compare_view.failure(found))
