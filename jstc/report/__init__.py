"""What a run gave, from the files it left: summary.json and report.md. No torch here."""

from __future__ import annotations

from jstc.report.markdown import markdown
from jstc.report.summary import build
from jstc.report.sweep_markdown import sweep_markdown
from jstc.report.sweep_summary import PICTURE, build_sweep, is_sweep, points
from jstc.report.sweep_table import sweep_table
from jstc.report.tables import TableRow, table

__all__ = ["PICTURE", "TableRow", "build", "build_sweep", "is_sweep", "markdown", "points"]
__all__ += ["sweep_markdown", "sweep_table", "table"]
