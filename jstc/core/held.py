"""Folders that this process works in: once one is deleted or replaced, nothing more is written for it.

Writing makes the folder of a file where there is none; without this, a run whose directory was deleted while
it ran would make the half of it anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from jstc.errors import FolderGoneError

__all__ = ["held", "require_held"]

_Identity = tuple[int, int]
_held: dict[Path, tuple[Path, _Identity]] = {}


@contextlib.contextmanager
def held(folder: Path, lock: Path) -> Iterator[None]:
    """A block in which this process works in `folder`, and has the file `lock` in it open.

    That one is looked at, because the system gives its number to no other file meanwhile.
    """
    _held[folder] = lock, _identity(lock)
    try:
        yield
    finally:
        _held.pop(folder, None)


def require_held(path: Path) -> None:
    """Raise `FolderGoneError` when `path` is, or is in, a folder of ours that is not the one it was."""
    for folder, (lock, identity) in _held.items():
        if path.is_relative_to(folder) and not _is_same(lock, identity):
            what = f"{folder} (or {lock.name} in it) was deleted, moved or replaced"
            raise FolderGoneError(
                f"{what} while a run was at work there, which has stopped and writes nothing more",
                "begin it anew with the same command, or put the directory back and continue",
            )


def _identity(path: Path) -> _Identity:
    found = path.stat()
    return found.st_dev, found.st_ino


def _is_same(path: Path, identity: _Identity) -> bool:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return _identity(path) == identity
    return False
