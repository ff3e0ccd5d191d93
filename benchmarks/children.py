"""Python processes that a benchmark starts for itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["ROOT", "command", "environment"]

ROOT = Path(__file__).parents[1]


def command(module: str, *words: str, launcher: tuple[str, ...] = ()) -> list[str]:
    """The command that runs `python -m MODULE WORD...`; `launcher` are words of torchrun, say, before it."""
    # -P: the order of the path is that of PYTHONPATH, in every folder.
    return [sys.executable, "-P", *launcher, "-m", module, *words]


def environment(**more: str) -> dict[str, str]:
    """The variables of this process and `more`; modules of the checkout are found, but after all others."""
    found = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([*([found] if found else []), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, **more}
