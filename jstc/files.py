"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jstc import reading
from jstc.errors import DiskFullError

__all__ = ["read_json", "sha256", "space_for", "write_bytes", "write_json", "write_text", "write_with"]

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # not every platform has quotas


def write_with(path: Path, write: Callable[[Path], object], *, size: int | None = None) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it to `path`.

    A process killed at any point leaves either the old file or the new one, never a part of it.
    The temporary file keeps the suffix of `path`, because some libraries choose a format by it.
    `size` is how many bytes the file takes, where that is known. Raises `DiskFullError` where there is no
    space; the old file is then still there.
    """
    with space_for(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(path.parent)


@contextlib.contextmanager
def space_for(path: Path, size: int | None = None) -> Iterator[None]:
    """Whatever tells in the block that the disk of `path` is full becomes a `DiskFullError`."""
    try:
        yield
    except Exception as error:
        if not _is_full(error):
            raise
        raise DiskFullError(_full(path, size)) from error


def _is_full(error: Exception) -> bool:
    # Some libraries have errors of their own, which carry the system's in their text only.
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    return any(os.strerror(number) in str(error) for number in _FULL)


def _full(path: Path, size: int | None) -> str:
    needed = "" if size is None else f"; it takes {size / 1e6:,.1f} MB"
    free = ""
    with contextlib.suppress(OSError):
        free = f", {shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free"
    return (
        f"no space left on the disk for {path}{needed}{free}. What was written before is intact: "
        "free some space and run the same command again"
    )


def _sync_directory(directory: Path) -> None:
    # Without this the rename itself may be lost with the power. Not every platform can open a folder.
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    write_with(path, lambda temporary: temporary.write_bytes(data), size=len(data))


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, document: Any) -> None:
    """Write `document` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON document. Raises `OSError`, or `DamagedError`, which is also a `ValueError`."""
    return reading.read_json(path)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
