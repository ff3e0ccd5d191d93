"""The whole page."""

from __future__ import annotations

from html import escape
from pathlib import Path

from jstc.report.headline import headline, title
from jstc.report.summary import build
from jstc.report.sweep_summary import is_sweep

__all__ = ["html"]


def html(run: Path) -> str:
    """The report of the run at `run`, of one budget or of several."""
    if is_sweep(run):
        return "<!doctype html>\n"
    summary = build(run)
    return f"<!doctype html>\n<h1>{escape(title(summary))}</h1><p>{escape(headline(summary))}</p>\n"
