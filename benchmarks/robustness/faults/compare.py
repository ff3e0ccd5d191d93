"""What two runs of one recipe must have in common: every file, bit for bit, apart from times and dates."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jstc.train import checkpoint

__all__ = ["differences", "fingerprint"]

TIMES = {"seconds", "created", "updated", "started", "finished", "date", "sha256", "artifacts", "artefacts"}
"""Keys of JSON documents whose values are times, or hashes of files with times in them."""


def fingerprint(directory: Path) -> dict[str, Any]:
    """By file name, everything in a run directory that does not depend on when it was made."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and ".lock" not in path.name)
    return {path.relative_to(directory).as_posix(): _content(path) for path in paths}


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Names of the files that differ, or are in one of the two only."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
    if path.name.startswith("checkpoint"):
        tensors, meta = checkpoint.load(path)
        return without_times(meta), dict(_hashes(tensors))
    data = path.read_bytes()
    if path.suffix == ".md":
        data = re.sub(rb"\d{4}-\d\d-\d\dT[\d:+]+", b"", data)
    return hashlib.sha256(data).hexdigest()


def _hashes(tensors: Any) -> Iterator[tuple[str, str]]:
    for name, tensor in sorted(tensors.items()):
        yield name, hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def without_times(document: Any) -> Any:
    """The document without the values under the keys of `TIMES`."""
    if isinstance(document, dict):
        return {key: without_times(value) for key, value in document.items() if key not in TIMES}
    if isinstance(document, list):
        return [without_times(value) for value in document]
    return document
