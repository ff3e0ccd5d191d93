"""The pictures of a run, each drawn once: files of its directory, shown by the Markdown and by the page."""

from __future__ import annotations

from jstc.report.collect import RunData, SweepData
from jstc.report.plots.canvas import Drawing
from jstc.report.plots.history import draw_training
from jstc.report.plots.networks import draw_pareto, draw_tradeoffs, draw_widths
from jstc.report.plots.search import draw_candidates, draw_depths, draw_search

__all__ = ["Drawing", "draw"]


def draw(data: RunData | SweepData) -> list[Drawing]:
    """The pictures of a run; what it does not have is not drawn."""
    if isinstance(data, SweepData):
        found = [draw_pareto(data.summary)]
    else:
        found = [draw_training(data), draw_widths(data.summary)]
        found += [draw_candidates(data), draw_depths(data), draw_search(data), *draw_tradeoffs(data.summary)]
    return [drawing for drawing in found if drawing is not None]
