"""Reading small documents that may come from anywhere: of bounded size, strict, and inside their folder."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Never

from jstc.errors import DamagedError

__all__ = ["MAX_JSON_BYTES", "inside", "parse_json", "read_bytes", "read_json"]

MAX_JSON_BYTES = 64 * 2**20
"""The largest document of ours is the plan of a network with hundreds of thousands of channels: a few MB."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def read_bytes(path: Path, *, limit: int) -> bytes:
    """All of a file. Raises `DamagedError` when it has more than `limit` bytes, without reading on."""
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise DamagedError(f"{path} is larger than {limit / 2**20:g} MiB; nothing that jstc reads there is")
    return data


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
