"""The lines that a training leaves behind, round by round and epoch by epoch, as columns of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jstc import reading

__all__ = ["column", "known", "read_history"]

_MAX_BYTES = 256 * 2**20


def read_history(path: Path) -> list[dict[str, Any]]:
    """The records of a `history.jsonl` up to the first broken line; none when there is no such file.

    A history is shown, never computed with: one that was cut off is worth as much as it says.
    """
    try:
        lines = reading.read_bytes(path, limit=_MAX_BYTES).decode("utf-8").splitlines()
    except (OSError, ValueError):
        return []
    records: list[dict[str, Any]] = []
    for line in lines:
        try:
            record = reading.parse_json(line, where=str(path))
        except ValueError:
            break
        if not isinstance(record, dict):
            break
        records.append(record)
    return records


def column(records: Sequence[dict[str, Any]], key: str) -> list[float]:
    """A figure of every record; not a number where a record has none."""
    return [_number(record.get(key)) for record in records]


def known(values: Sequence[float]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if math.isfinite(value)]


def _number(value: object) -> float:
    finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if finite else math.nan  # type: ignore[arg-type]
