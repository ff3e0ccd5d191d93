"""The report as one HTML file: no network, no script, for screens of any width and for print."""

from __future__ import annotations

from jstc.report.page.page import html

__all__ = ["html"]
