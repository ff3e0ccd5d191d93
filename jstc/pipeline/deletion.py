"""What is deleted of a run directory: what jstc has put there, by name, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

__all__ = ["delete_folder", "delete_leftovers", "delete_results"]

_LOOSE_FILES = ("summary.json", "report.md", "report.html", "target.json", "corrupt.jsonl", "corrupt-*.jsonl")


def delete_leftovers(path: Path) -> None:
    """Delete temporary files of a process that was killed while writing; the caller holds the lock."""
    # Nobody is writing now, unless it is in a folder that is a run of its own, with its own lock.
    folders = [folder for folder in path.iterdir() if folder.is_dir() and not folder.is_symlink()]
    ours = [folder for folder in folders if not (folder / "manifest.json").exists()]
    found = [
        leftover for folder in ours for depth in ("", "*/") for leftover in folder.glob(depth + ".tmp-*")
    ]
    for leftover in [*path.glob(".tmp-*"), *found]:
        leftover.unlink(missing_ok=True)


def delete_results(path: Path, stages: Collection[str]) -> None:
    """Delete all that a run has made: whatever else a user has put there stays."""
    for stage in stages:
        delete_folder(path / stage)
    for pattern in _LOOSE_FILES:
        for file in path.glob(pattern):
            file.unlink(missing_ok=True)
    delete_leftovers(path)


def delete_folder(folder: Path) -> None:
    """Delete a folder, of a link the link alone."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        shutil.rmtree(folder)
