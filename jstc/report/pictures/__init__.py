"""The pictures of a run, as SVG files."""

from __future__ import annotations

from jstc.report.pictures.drawing import draw

__all__ = ["draw"]
