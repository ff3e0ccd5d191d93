"""Two runs, gate by gate: what a change to a recipe, to data or to code did to what is shipped. No torch."""

from __future__ import annotations

from jstc.gate.comparison import Comparison, Settings, compare, timed_pairs
from jstc.gate.gates import Gate, Kind, Limit, limits
from jstc.gate.render import HEADER, headline, junit, line, markdown, remarks, rows, title, workflow_commands
from jstc.gate.summaries import Place, Summary, load, parse, read
from jstc.gate.timing_gates import Measuring, Timed

__all__ = [
    "HEADER",
    "Comparison",
    "Gate",
    "Kind",
    "Limit",
    "Measuring",
    "Place",
    "Settings",
    "Summary",
    "Timed",
    "compare",
    "headline",
    "junit",
    "limits",
    "line",
    "load",
    "markdown",
    "parse",
    "read",
    "remarks",
    "rows",
    "timed_pairs",
    "title",
    "workflow_commands",
]
