"""Two runs, gate by gate: what a change to a recipe, to data or to code did to what is shipped. No torch."""

from __future__ import annotations

from jstc.gate.comparison import GateReport, Settings, compare, timed_pairs
from jstc.gate.gates import Gate, Kind, Limit, Place, Side, limits, load_side, parse_side, side
from jstc.gate.latency_gates import Measuring, Timed
from jstc.gate.render import HEADER, headline, junit, line, markdown, remarks, rows, title, workflow_commands

__all__ = [
    "HEADER",
    "Gate",
    "GateReport",
    "Kind",
    "Limit",
    "Measuring",
    "Place",
    "Settings",
    "Side",
    "Timed",
    "compare",
    "headline",
    "junit",
    "limits",
    "line",
    "load_side",
    "markdown",
    "parse_side",
    "remarks",
    "rows",
    "side",
    "timed_pairs",
    "title",
    "workflow_commands",
]
