"""`jstc report`."""

from __future__ import annotations

from typing import Annotated

import typer

from jstc.cli import options
from jstc.errors import InputError, RunDirectoryError

__all__ = ["report"]


def report(
    run: options.Run = None,
    json: options.Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the report as Markdown.")] = False,
    debug: options.Debug = False,
) -> None:
    """Show the results of RUN, as far as it has come; of several budgets, all of them side by side."""
    import contextlib

    from jstc import report as reporting
    from jstc.cli import output
    from jstc.pipeline import chain

    if json and markdown:
        raise InputError("give either --json or --markdown")
    path = options.run_or_newest(run)
    # A run that another process is working on is shown, and left to that process.
    with contextlib.suppress(RunDirectoryError):
        chain.write_report(path)
    several = reporting.is_sweep(path)
    summary = reporting.build_sweep(path) if several else reporting.build(path)
    if markdown:
        output.text(reporting.sweep_markdown(summary) if several else reporting.markdown(summary))
    else:
        output.summary(summary, path, as_json=json)
