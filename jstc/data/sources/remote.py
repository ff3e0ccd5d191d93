"""Shards over HTTP: copied once, whole, into a folder of this machine. No torch here."""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from jstc.core import files
from jstc.errors import DataError

__all__ = ["copies", "is_url", "read", "require_there"]

_TIMEOUT_S = 60.0
_TRIES = 4
_AT_ONCE = 4
_WAIT_S = 1.0
_MOST_NAME = 100  # of characters, at the end of it
_PASSING = (408, 416, 429)  # took too long, nothing of that range, too many requests


def is_url(place: str) -> bool:
    """Is it the address of a file elsewhere? Only HTTP is spoken."""
    return place.startswith(("http://", "https://"))


def read(url: str, *, limit: int) -> bytes | None:
    """A small file; None where there is none. Raises `DataError`."""
    try:
        with _open(url) as response:
            data: bytes = response.read(limit + 1)
    except urllib.error.HTTPError as error:
        if error.code in (403, 404):  # some stores say 403 for what is not there
            return None
        raise DataError(f"cannot read {url}: {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"cannot read {url}: {_reason(error)}") from None
    if len(data) > limit:
        raise DataError(f"{url} is larger than {limit / 2**20:g} MiB")
    return data


def require_there(url: str) -> int:
    """The size of a file in bytes, 0 where the server does not tell. Raises `DataError` without it."""
    try:
        with _open(url, method="HEAD") as response:
            return int(response.headers.get("Content-Length") or 0)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"cannot read {url}: {_reason(error)}") from None


def copies(urls: Sequence[str], folder: Path, *, say: Callable[[str], None]) -> list[Path]:
    """Files with the contents of `urls`: those in `folder` already, and those copied there now.

    A copy that was cut off is gone on with; processes that want the same file take turns. Raises `DataError`.
    """
    targets = [_target(url, folder) for url in urls]
    missing = [url for url, target in zip(urls, targets, strict=True) if not target.is_file()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        size = _require_space(missing, folder)
        say(f"copying {len(missing):,} shards, about {size / 1e9:.1f} GB, to {folder}, once")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda url: _copy(url, _target(url, folder)), missing))
    return targets


def _target(url: str, folder: Path) -> Path:
    # Only what is a name on every system: a backslash leads elsewhere on some, a colon names a drive.
    name = re.sub(r"[^A-Za-z0-9._-]", "_", re.split(r"[?#]", url)[0].rpartition("/")[2])[-_MOST_NAME:]
    return folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"


def _require_space(missing: Sequence[str], folder: Path) -> int:
    size = require_there(missing[0]) * len(missing)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{len(missing):,} shards of about {size / len(missing) / 1e9:.2f} GB do not fit on the disk of "
            f"{folder}, where {free / 1e9:.1f} GB are free; name another folder with input.cache"
        )
    return size


def _copy(url: str, target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    with FileLock(f"{target}.lock"), files.space_for(target):
        if target.is_file():  # another process was faster
            return
        for attempt in range(_TRIES):
            try:
                _download(url, part)
                break
            except (OSError, http.client.HTTPException) as error:
                if _is_full(error):
                    raise
                if attempt == _TRIES - 1 or _is_final(error):
                    raise DataError(f"cannot copy {url}: {_reason(error)}") from None
                time.sleep(_WAIT_S * 4**attempt)
        part.replace(target)


def _download(url: str, part: Path) -> None:
    """Append what is missing to `part`."""
    have = part.stat().st_size if part.exists() else 0
    try:
        with _open(url, {"Range": f"bytes={have}-"} if have else {}) as response:
            have = have if response.status == 206 else 0  # not every server can go on in the middle
            length = response.headers.get("Content-Length")
            with part.open("ab" if have else "wb") as file:
                shutil.copyfileobj(response, file, 2**20)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing, or the file is another one: once more from the start
            part.unlink()
        raise
    if length is not None and part.stat().st_size != have + int(length):
        raise OSError("the connection was cut")


def _open(url: str, headers: dict[str, str] | None = None, *, method: str = "GET") -> Any:
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    return urllib.request.urlopen(request, timeout=_TIMEOUT_S)


def _is_final(error: Exception) -> bool:
    """Would asking again be answered the same?"""
    return isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in _PASSING


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__
