"""Whose code may be run: that of networks which the user has named on a command line of this machine.

A run directory comes from anywhere, and its recipe may say `model: net.py:make`. What was named is on record
outside of all run directories, in the user's cache: a file for each name, with the place of the source and
the SHA-256 that it had. No torch here.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from jstc import cache, files
from jstc.errors import ModelError
from jstc.models.catalogue import runs_user_code, split_user_name

__all__ = ["is_remembered", "remember", "require"]

_remembered: set[tuple[str, str]] = set()
"""Of this process, where nothing can be written."""


def require(name: str, *, named: str | None = None) -> None:
    """Raise `ModelError` unless the network `name` may be built: its code is no user's, or the user's own.

    It is the user's own when `named`, by the command line at work, or an earlier one with the same source.
    """
    if not runs_user_code(name):
        return
    if named is not None:
        if _identity(named) != _identity(name):
            raise ModelError(f"--model {named}: the network of this run is '{name}'; name that one, or none")
        remember(name)
    if not is_remembered(name):
        raise ModelError(
            f"building this network runs code, '{name}', which no command of yours has named since it was "
            f"last changed; if you trust that code, add --model {name}"
        )


def remember(name: str) -> None:
    """Put on record that the user has named the network; nothing for one without code of a user."""
    if not runs_user_code(name):
        return
    key, digest = _identity(name), _digest(name)
    _remembered.add((key, digest))
    with contextlib.suppress(OSError):  # then the next command has to name it again
        files.write_json(_record(key), {"model": key, "sha256": digest})


def is_remembered(name: str) -> bool:
    """Whether the user has named the network, and its source is as it was then."""
    key, digest = _identity(name), _digest(name)
    if (key, digest) in _remembered:
        return True
    try:
        document = files.read_json(_record(key))
    except (OSError, ValueError):
        return False
    return bool(document == {"model": key, "sha256": digest})


def _record(key: str) -> Path:
    return cache.folder() / "models" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _identity(name: str) -> str:
    """The place of the source and the factory in it: `/home/me/net.py:make`."""
    location, factory = split_user_name(name)
    return f"{_source(location) or location}:{factory}"


def _digest(name: str) -> str:
    source = _source(split_user_name(name)[0])
    return files.sha256(source) if source is not None and source.is_file() else ""


def _source(location: str) -> Path | None:
    """The file of a module, found without running anything; None for one that has none."""
    if location.endswith(".py"):
        return Path(location).resolve()
    places: list[str] | None = [str(Path.cwd()), *sys.path]
    spec, parts = None, location.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), places) if places else None
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
    return Path(spec.origin).resolve() if spec is not None and spec.origin else None
