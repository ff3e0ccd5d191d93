"""The report stage: summary.json, report.md and report.html from what the other stages left. No torch."""

from __future__ import annotations

from jstc import report as reporting
from jstc.runs.workspace import StageContext

__all__ = ["judge", "report"]


def judge(context: StageContext) -> None:
    """Read all that the report is made of."""
    reporting.read(context.path)


def report(context: StageContext) -> None:
    """Write the summary, both reports, and their pictures, of one budget or of several."""
    reporting.write(context.path)
