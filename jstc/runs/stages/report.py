"""The report stage: summary.json, report.md and report.html from what the other stages left."""

from __future__ import annotations

from jstc.core import files
from jstc.runs.workspace import StageContext

__all__ = ["FILES", "report"]

FILES = ("summary.json", "report.md", "report.html")
"""What the stage writes beside its folder, for one budget and for several."""


def report(context: StageContext) -> None:
    """Write the summary, both reports, and the pictures of the Markdown one."""
    from jstc import report as reporting
    from jstc.report import plots

    plots.draw(context.path)  # first: the summary lists them
    summary = reporting.build(context.path)
    files.write_json(context.path / "summary.json", summary)
    files.write_text(context.path / "report.md", reporting.markdown(summary))
    files.write_text(context.path / "report.html", reporting.html(context.path))
