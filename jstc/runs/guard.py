"""What may lie in a run directory, and what of it is deleted: nothing outside, and inside by name alone.

A run directory may be anybody's. What would be written or deleted through a link that leads out of it is
somebody else's, and a pipe or a device in a file's place would keep a command from ending.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from jstc.core import files
from jstc.errors import RunDirectoryError

__all__ = [
    "LEFTOVER",
    "delete_leftovers",
    "delete_results",
    "delete_stage",
    "refuse_link",
    "refuse_odd",
    "require_own",
]

_LOOSE_FILES = ("summary.json", "report.md", "report.html", "target.json", "corrupt.jsonl", "corrupt-*.jsonl")
LEFTOVER = ".tmp-"
_SHOWN = "tensorboard"  # beside the folders of the stages


def require_own(run: Path) -> None:
    """Raise `RunDirectoryError` when something in the run directory, at any depth, is a link that leads out.

    So it does for what is neither a file nor a folder. The directory itself may be a link.
    """
    for parent, folders, names in os.walk(run):
        for name in (*folders, *names):
            refuse_odd(Path(parent) / name, run)


def refuse_odd(path: Path, run: Path) -> None:
    """Raise `RunDirectoryError` when `path` is a link that leads out of `run`, or neither file nor folder."""
    if path.is_symlink() and _leads_out(path, run):
        raise RunDirectoryError(
            f"{path} is a link that leads out of the run directory; nothing is written or deleted "
            "through it: put the files in its place, or have the whole directory elsewhere with --out"
        )
    if path.exists() and not path.is_dir() and (kind := files.irregular(path)) is not None:
        raise RunDirectoryError(f"{path} is {kind}, which no run leaves there; delete it")


def refuse_link(path: Path) -> None:
    """Raise `RunDirectoryError` when `path` is a link, or neither file nor folder."""
    if path.is_symlink():
        raise RunDirectoryError(f"{path} is a link, which no run leaves there; delete it")
    refuse_odd(path, path.parent)


def _leads_out(path: Path, run: Path) -> bool:
    try:
        return not path.resolve().is_relative_to(run.resolve())
    except (OSError, RuntimeError):  # links in a circle
        return True


def delete_leftovers(run: Path, stages: Collection[str]) -> None:
    """Delete temporary files of a process that was killed while writing; the caller holds the lock."""
    places = [run, *(folder for stage in (*stages, _SHOWN) for folder in _below(run / stage))]
    for place in places:
        for entry in list(os.scandir(place)):
            if entry.name.startswith(LEFTOVER) and not entry.is_dir(follow_symlinks=False):
                files.delete(Path(entry.path))


def delete_results(run: Path, stages: Collection[str]) -> None:
    """Delete all that a run has made: whatever else a user has put there stays."""
    for stage in stages:
        files.delete(run / stage)
    for path in run.iterdir():
        if _is_loose(path.name):
            files.delete(path)
    delete_leftovers(run, stages)


def delete_stage(run: Path, stage: str, artifacts: Collection[str]) -> None:
    """Delete the folder of a stage, and those of its `artifacts` that lie beside it."""
    # Whoever wrote the record may have put there whatever names there are.
    for name in filter(_is_loose, artifacts):
        files.delete(run / name)
    files.delete(run / stage)


def _is_loose(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _LOOSE_FILES)


def _below(folder: Path) -> Iterator[Path]:
    """`folder` and those in it, no links followed; not one that is a run of its own, under its own lock."""
    if folder.is_symlink():
        return
    for place, folders, names in os.walk(folder):
        if "manifest.json" in names:
            folders.clear()
        else:
            yield Path(place)
