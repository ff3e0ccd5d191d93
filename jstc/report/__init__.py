"""What a run gave, from the files it left: summary.json and report.md. No torch here."""

from __future__ import annotations

from jstc.report.markdown import markdown
from jstc.report.summary import build
from jstc.report.tables import TableRow, table

__all__ = ["TableRow", "build", "markdown", "table"]
