"""Processes that tests start: they find the jstc that is tested, and modules of the tests."""

from __future__ import annotations

import os
from pathlib import Path

import jstc

__all__ = ["ROOT", "environment"]

ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """The variables of this process and `more`; the tested jstc comes before one that is installed."""
    path = os.pathsep.join([str(Path(jstc.__file__).parents[1]), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, **more}
