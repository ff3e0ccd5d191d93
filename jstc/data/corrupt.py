"""Images that cannot be read: named, counted, left out up to a limit. No torch here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from jstc import reading
from jstc.errors import DataError

__all__ = ["CorruptImages", "corrupt_file"]

_SHOWN = 5
_MOST_BYTES = 256 * 2**20


def corrupt_file(rank: int = 0) -> str:
    """The name of the file in a run directory that lists them: each of several processes has its own."""
    return "corrupt.jsonl" if rank == 0 else f"corrupt-{rank}.jsonl"


class CorruptImages:
    """The images of a data set that could not be read, each once, and why; at most `limit` of them."""

    def __init__(self, limit: int = 100) -> None:
        self.limit = limit
        self.found: dict[str, str] = {}
        self._path: Path | None = None

    def keep_in(self, path: Path) -> None:
        """Write them to `path`, one JSON document a line, as they are found; those there count as found."""
        self._path = path
        unwritten = dict(self.found)
        for where, reason in _read(path):
            self.found.setdefault(where, reason)
            unwritten.pop(where, None)
        for where, reason in unwritten.items():
            self._write(where, reason)

    def add(self, images: Iterable[tuple[str, str]]) -> None:
        """Count images (where, reason). Raises `DataError` when there are more than `limit`."""
        new = [(where, reason) for where, reason in images if where not in self.found]
        for where, reason in new:
            self.found[where] = reason
            self._write(where, reason)
        if new and len(self.found) > self.limit:
            raise DataError(self._too_many())

    def _too_many(self) -> str:
        first = "; ".join(f"{where}: {reason}" for where, reason in list(self.found.items())[:_SHOWN])
        more = "; ..." if len(self.found) > _SHOWN else ""
        known = f"; all are in {self._path}" if self._path else ""
        return (
            f"{len(self.found)} images cannot be read, input.max_corrupt allows {self.limit}: "
            f"{first}{more}{known}"
        )

    def _write(self, where: str, reason: str) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps({"image": where, "reason": reason}) + "\n")


def _read(path: Path) -> Iterable[tuple[str, str]]:
    """Lines that can be understood: the last one may have been cut off, and is found again."""
    if not path.is_file():
        return
    for line in reading.read_bytes(path, limit=_MOST_BYTES).decode("utf-8", "replace").splitlines():
        try:
            entry = reading.parse_json(line, where=str(path))
            yield str(entry["image"]), str(entry["reason"])
        except (ValueError, KeyError, TypeError):
            continue
