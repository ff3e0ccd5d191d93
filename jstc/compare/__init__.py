"""Two runs, gate by gate: what a change to a recipe, to data or to code did to what is shipped. No torch."""

from __future__ import annotations

from jstc.compare.actions import workflow_commands
from jstc.compare.comparison import Comparison, Settings, compare, timed_pairs
from jstc.compare.gates import Gate
from jstc.compare.junit import junit
from jstc.compare.latency import Measuring, Timed
from jstc.compare.limits import Kind, Limit, limits
from jstc.compare.summaries import Place, Summary, load, parse, read
from jstc.compare.tables import HEADER, headline, line, markdown, remarks, rows, title

__all__ = ["HEADER", "Comparison", "Gate", "Kind", "Limit", "Measuring", "Place", "Settings", "Summary"]
__all__ += ["Timed", "compare", "headline", "junit", "limits", "line", "load", "markdown"]
__all__ += ["parse", "read", "remarks", "rows", "timed_pairs", "title", "workflow_commands"]
