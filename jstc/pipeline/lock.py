"""One process per run directory. The lock is the operating system's, so a killed process leaves none."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from jstc import files
from jstc.errors import RunDirectoryError

__all__ = ["locked"]

_LOCK = ".lock"
_HOLDER = ".lock-holder.json"  # beside the lock: a locked file cannot be read on every platform


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lock of `directory`, creating the directory if need be.

    Raises `RunDirectoryError` at once when another process holds it, or when it cannot be written.
    """
    lock = filelock.FileLock(directory / _LOCK, timeout=0)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise RunDirectoryError(
            f"{directory} is in use by {_holder(directory)}; wait for it or stop it, or use another directory"
        ) from None
    except OSError as error:
        raise RunDirectoryError(f"cannot write to {directory}: {error.strerror or error}") from None
    try:
        files.write_json(directory / _HOLDER, {"pid": os.getpid(), "host": socket.gethostname()})
        yield
    finally:
        with contextlib.suppress(OSError):
            (directory / _HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(directory: Path) -> str:
    try:
        holder = files.read_json(directory / _HOLDER)
        return f"process {int(holder['pid'])} on {holder['host']}"
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError):
        return "another process"
