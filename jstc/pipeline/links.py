"""Links that lead out of a run directory: what is written or deleted through them is somebody else's."""

from __future__ import annotations

import os
from pathlib import Path

from jstc.errors import RunDirectoryError

__all__ = ["refuse", "refuse_one"]


def refuse(run: Path) -> None:
    """Raise `RunDirectoryError` when something in the run directory, at any depth, is a link that leads out.

    The directory itself may be one.
    """
    for parent, folders, names in os.walk(run):
        for name in (*folders, *names):
            refuse_one(Path(parent) / name, run)


def refuse_one(path: Path, run: Path) -> None:
    """Raise `RunDirectoryError` when `path` is a link that leads out of `run`."""
    if path.is_symlink() and not path.resolve().is_relative_to(run.resolve()):
        raise RunDirectoryError(
            f"{path} is a link that leads out of the run directory; nothing is written through it: put the "
            "files in its place, or have the whole directory elsewhere with --out"
        )
