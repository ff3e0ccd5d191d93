"""The record of a network, on disk after every stage: a process that is killed leaves what it found."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jstc.core import files

__all__ = ["Record", "limit_memory", "message"]

_LONGEST = 200


def message(error: BaseException) -> str:
    """An error in one short line."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def limit_memory(gigabytes: float) -> None:
    """Cap the address space of this process, where the system can: a full machine stops everything else."""
    with contextlib.suppress(ImportError):
        import resource

        size = int(gigabytes * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


class Record:
    """Facts about one network. `failures` maps a stage to what went wrong in it."""

    def __init__(self, path: Path | None = None) -> None:
        self.found: dict[str, Any] = {"failures": {}}
        self._path = path
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A part of the work. An exception becomes the failure of this stage, and is not raised."""
        self.found["stage"] = name
        self.save()
        try:
            yield
        except Exception as error:
            self.found["failures"][name] = message(error)
        self.save()

    def save(self) -> None:
        """Write everything found so far."""
        self.found["seconds"] = round(time.perf_counter() - self._started, 2)
        if self._path is not None:
            files.write_text(self._path, json.dumps(self.found))
