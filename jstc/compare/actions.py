"""Lines that GitHub Actions shows at the top of a run and on the pull request."""

from __future__ import annotations

from jstc.compare.comparison import Comparison
from jstc.compare.tables import line

__all__ = ["workflow_commands"]

_LEVELS = {"fails": "error", "unclear": "warning", "not comparable": "warning"}


def workflow_commands(comparison: Comparison) -> list[str]:
    """A workflow command for every gate that fails, is unclear, or could not be compared."""
    found = [(_LEVELS.get(gate.verdict), gate) for gate in comparison.gates]
    return [f"::{level} title=jstc compare::{_escaped(line(gate))}" for level, gate in found if level]


def _escaped(text: str) -> str:
    # As the runner reads them back; a bare % or line end would be taken for its own.
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
