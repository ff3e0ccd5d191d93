"""What a run gave, from the files it left: summary.json, report.md and report.html. No torch here."""

from __future__ import annotations

from jstc.report.markdown import markdown
from jstc.report.page import html
from jstc.report.summary import build
from jstc.report.sweep_markdown import sweep_markdown
from jstc.report.sweep_summary import PICTURE, build_sweep, is_sweep, points
from jstc.report.sweep_table import sweep_table
from jstc.report.tables import TableRow, table

__all__ = ["PICTURE", "TableRow", "build", "build_sweep", "html", "is_sweep", "markdown", "points"]
__all__ += ["sweep_markdown", "sweep_table", "table"]
