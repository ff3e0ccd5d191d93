"""`jstc report`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from jstc.cli import options
from jstc.errors import InputError, RunDirectoryError

__all__ = ["report"]


def report(
    run: options.Run = None,
    json: options.Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the report as Markdown.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Print the report as one HTML page.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write it there instead of printing.")
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Show the results of RUN, as far as it has come.

    Of several budgets, all of them side by side. RUN itself has them as summary.json,
    report.md and report.html once its stages are done. RUN can also be the folder of a
    jstc.JointSearch, which has a score in place of accuracies.
    """
    if json + markdown + html > 1:
        raise InputError("give either --json or --markdown or --html")
    if out is not None and not json + markdown + html:
        raise InputError("--out needs to know what to write: --json, --markdown or --html")
    from jstc import report as reporting
    from jstc.cli import console, results
    from jstc.runs import commands, directory, manifest

    path = run or directory.newest_run(say=console.note)
    if reporting.is_task(path):
        _of_task(path, json=json, markdown=markdown, html=html, out=out)
        return
    with manifest.damage_as_input_error(path):
        # A run that another process is working on is shown, and left to that process.
        with contextlib.suppress(RunDirectoryError):
            commands.write_report(path)
        data = reporting.read(path)
        with console.redirected(out):
            if markdown:
                console.text(reporting.markdown(data))
            elif html:
                console.text(reporting.html(data))
            else:
                results.summary(data.summary, path, as_json=json)


def _of_task(path: Path, *, json: bool, markdown: bool, html: bool, out: Path | None) -> None:
    """Show the results of a `jstc.JointSearch`."""
    from jstc import report as reporting
    from jstc.cli import console

    data = reporting.write_task(path)
    with console.redirected(out):
        if json:
            console.document(data.to_dict())
        elif markdown:
            console.text(reporting.task_markdown(data))
        elif html:
            console.text(reporting.task_html(data))
        else:
            header, rows = reporting.task_table(data)
            console.table(header, rows, numbers_from=1)
            console.page(path)
