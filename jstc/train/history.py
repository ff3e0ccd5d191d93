"""An append-only log of JSON lines that survives being cut off in the middle of a line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jstc import files

__all__ = ["History"]


class History:
    """Records in a `.jsonl` file, numbered 0, 1, 2 ... under the key `index`.

    The checkpoint knows how many records are true; a part that goes on from it calls `truncate` first, so
    that lines written after that checkpoint, whole or broken, are dropped and written anew.
    """

    def __init__(self, path: Path, *, index: str = "index") -> None:
        self.path = path
        self.index = index
        self._count: int | None = None

    def read(self) -> list[dict[str, Any]]:
        """The unbroken records from the start, in order; none when there is no file."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        records: list[dict[str, Any]] = []
        for line in lines[:-1]:  # what follows the last line end was never finished
            record = _parse(line)
            if record is None or record.get(self.index) != len(records):
                break
            records.append(record)
        return records

    def truncate(self, count: int) -> None:
        """Keep the first `count` records and nothing else."""
        self._keep(self.read()[:count])

    def _keep(self, records: list[dict[str, Any]]) -> int:
        if self.path.exists():
            files.write_text(self.path, "".join(_line(record) for record in records))
        self._count = len(records)
        return self._count

    def append(self, record: Mapping[str, Any]) -> None:
        """Add the record with the next number, and flush it to disk.

        Raises `ValueError` for a record whose number is not the next one, `DiskFullError` without space.
        """
        # Before our first line: a broken one at the end would swallow it.
        count = self._keep(self.read()) if self._count is None else self._count
        if record.get(self.index) != count:
            raise ValueError(f"{self.path}: the record is number {record.get(self.index)!r}, not {count}")
        with files.space_for(self.path):
            self._write(_line(record).encode())
        self._count = count + 1

    def _write(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError:  # a full disk: what went before is whole again
            os.truncate(self.path, before)
            raise


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
