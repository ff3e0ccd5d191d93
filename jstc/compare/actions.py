"""Lines that GitHub Actions shows at the top of a run and on the pull request."""

from __future__ import annotations

from jstc.compare.comparison import Comparison
from jstc.compare.gates import Gate
from jstc.compare.tables import line

__all__ = ["workflow_commands"]


def workflow_commands(comparison: Comparison) -> list[str]:
    """An error for every gate that fails, a warning for one that looks like it and is not certain."""
    found = [(_level(gate), gate) for gate in comparison.gates]
    return [f"::{level} title=jstc compare::{_escaped(line(gate))}" for level, gate in found if level]


def _level(gate: Gate) -> str | None:
    if gate.verdict == "fails":
        return "error"
    looks_slow = gate.verdict == "unclear" and (gate.change or 0.0) > (gate.limit or 0.0)
    return "warning" if looks_slow else None


def _escaped(text: str) -> str:
    # As the runner reads them back; a bare % or line end would be taken for its own.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
