"""Files: written whole or not at all, read as far as they can be trusted, and a folder that a machine keeps.

Whoever is killed while writing leaves the old file or the new one. A document may come from anywhere, so
reading is bounded and strict, is of regular files alone, and a name in it never leads out of its folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Never

from jstc.errors import DamagedError, DiskFullError, FolderGoneError

__all__ = [
    "MAX_HISTORY_BYTES",
    "MAX_JSON_BYTES",
    "cache_folder",
    "delete",
    "held",
    "inside",
    "irregular",
    "open_regular",
    "open_to_append",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_text",
    "replace_folder",
    "require_held",
    "require_regular",
    "sha256",
    "space_for",
    "write_bytes",
    "write_json",
    "write_text",
    "write_with",
]


# Writing.

_NOT_THROUGH_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def write_with(path: Path, write: Callable[[Path], object], *, size: int | None = None) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it to `path`.

    A process killed at any point leaves either the old file or the new one, never a part of it.
    The temporary file keeps the suffix of `path`, because some libraries choose a format by it.
    `size` is how many bytes the file takes, where that is known. Raises `DiskFullError` where there is no
    space; the old file is then still there. Raises `FolderGoneError` in a run directory that was deleted.
    """
    require_held(path)
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


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    write_with(path, lambda temporary: temporary.write_bytes(data), size=len(data))


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, document: Any) -> None:
    """Write `document` to `path` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _sync_directory(directory: Path) -> None:
    # Without this the rename itself may be lost with the power. Not every platform can open a folder.
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_folder(new: Path, folder: Path) -> None:
    """Give the folder `new` the name `folder`; what stood there is moved beside the former place of `new`.

    Whoever is killed meanwhile leaves the old folder, the new one, or both under other names.
    """
    old = new.with_name(f"{new.name}-old")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    _sync_directory(folder.parent)


def open_to_append(path: Path) -> io.BufferedWriter:
    """The file at `path`, made where there is none, open for more at its end.

    Raises `DamagedError` for what is no file, `OSError` for a link: it might lead to somebody else's.
    """
    if path.exists():
        require_regular(path)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NOT_THROUGH_LINKS, 0o666)
    return os.fdopen(handle, "ab")


def delete(path: Path) -> None:
    """Delete a file or a folder, of a link the link alone; do nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# What a full disk says.

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # not every platform has quotas


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


# Reading.

MAX_JSON_BYTES = 64 * 2**20
"""The largest document of ours is the plan of a network with hundreds of thousands of channels: a few MB."""

MAX_HISTORY_BYTES = 256 * 2**20
"""A line a round or an epoch, each of less than a kilobyte."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# A pipe that took the file's place since it was looked at would wait for somebody who writes into it.
_WITHOUT_WAITING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def irregular(path: Path) -> str | None:
    """The kind of what is at `path`, such as `a pipe`; None for a file, and for a link to one.

    Raises `OSError` when nothing is there.
    """
    mode = path.stat().st_mode
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def require_regular(path: Path) -> None:
    """Raise `DamagedError` unless a file, or a link to one, is at `path`.

    Reading a pipe or a device may never end, and libraries that are given the path would try. Raises
    `OSError` when nothing is there.
    """
    kind = irregular(path)
    if kind is not None:
        raise DamagedError(f"{path} is {kind}, not a file")


def open_regular(path: Path) -> io.BufferedReader:
    """The file at `path`, open for reading. Raises as `require_regular` does."""
    require_regular(path)
    return os.fdopen(os.open(path, _WITHOUT_WAITING), "rb")


def read_bytes(path: Path, *, limit: int) -> bytes:
    """All of a file. Raises `DamagedError` when it has more than `limit` bytes, without reading on."""
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DamagedError(f"{path} is larger than {limit / 2**20:g} MiB; nothing that jstc reads there is")
    return data


def read_text(path: Path, *, limit: int) -> str:
    """All of a file in UTF-8. Raises `DamagedError` for one that is larger than `limit` bytes, or no text."""
    try:
        return read_bytes(path, limit=limit).decode("utf-8")
    except UnicodeDecodeError:
        raise DamagedError(f"{path} is not text in UTF-8") from None


def read_json(path: Path, *, limit: int = MAX_JSON_BYTES) -> Any:
    """The JSON document in a file.

    Raises `DamagedError`, which is also a `ValueError`, for one that is too large or is not strict JSON, and
    `OSError` when it cannot be read.
    """
    return parse_json(read_bytes(path, limit=limit), where=str(path))


def parse_json(data: bytes | str, *, where: str) -> Any:
    """A JSON document; refuses what our own writer never writes: keys given twice, NaN, infinite numbers.

    Raises `DamagedError` with the reason, and `where` it was found.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        found = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite)
        if _HALF.search(text):
            json.dumps(found, ensure_ascii=False).encode("utf-8")  # halves of characters cannot be written
        return found
    except RecursionError:
        raise DamagedError(f"{where} is damaged or no JSON: it is nested too deep") from None
    except ValueError as error:  # JSON, UTF-8, whole numbers of thousands of digits
        raise DamagedError(f"{where} is damaged or no JSON: {_short(error)}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} is given twice")
    return found


def _constant(text: str) -> Never:
    raise ValueError(f"{text} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:60]} is out of range")
    return value


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


def inside(folder: Path, name: str) -> Path:
    """The file called `name` in a document that lies in `folder`.

    Raises `DamagedError` when the name leads out of the folder: an absolute path, `..`, a Windows form, or a
    link on the way.
    """
    parts = name.split("/")
    if not name or {"", ".", ".."} & set(parts) or any(char in name for char in "\\:\0"):
        raise DamagedError(f"{name[:200]!r} is not the name of a file in {folder}")
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DamagedError(f"{path} leads out of {folder} by a link; nothing is read or written there")
    return path


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """The folder of what belongs to this machine and its user, outside of every run directory.

    `JSTC_CACHE`, or `jstc` in `XDG_CACHE_HOME` or in `~/.cache`.
    """
    own = os.environ.get("JSTC_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jstc"


# Folders that this process works in: once one is deleted or replaced, nothing more is written for it.
#
# Writing makes the folder of a file where there is none; without this, a run whose directory was deleted
# while it ran would make the half of it anew.


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
