"""What a run gave, from the files it left: summary.json, report.md and report.html. No torch here."""

from __future__ import annotations

from jstc.report.markdown import markdown, sweep_markdown
from jstc.report.page import html
from jstc.report.summary import PICTURE, build, build_sweep, is_sweep, points
from jstc.report.tables import TableRow, sweep_table, table

__all__ = [
    "PICTURE",
    "TableRow",
    "build",
    "build_sweep",
    "html",
    "is_sweep",
    "markdown",
    "points",
    "sweep_markdown",
    "sweep_table",
    "table",
]
