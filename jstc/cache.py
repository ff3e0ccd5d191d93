"""Where jstc keeps what belongs to this machine and its user, outside of every run directory."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["folder"]


def folder() -> Path:
    """`JSTC_CACHE`, or `jstc` in `XDG_CACHE_HOME` or in `~/.cache`."""
    own = os.environ.get("JSTC_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jstc"
