"""Where the samples of a tar file lie, so that each can be read alone. No torch here.

Files of a shard that follow each other and have the same name up to the first dot are one sample, as
WebDataset has it: an image, and its label as the text of a `.cls` or in a `.json`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from jstc import files, reading
from jstc.data.folder_sample import SUFFIXES
from jstc.data.names import Names
from jstc.data.sampling import Indices
from jstc.errors import DataError

__all__ = ["ShardIndex", "index_of", "is_kept"]

_VERSION = 1
_LABEL_KEYS = ("label", "cls", "class", "target")
_MOST_LABEL_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Of each sample: where its image starts, its bytes, its name, and its label as text."""

    offsets: Indices
    sizes: Indices
    names: Names
    labels: Names


class _Sample(NamedTuple):
    offset: int
    size: int
    name: str
    label: str


def is_kept(path: Path, cache: Path) -> bool:
    """Is there an index of the shard already?"""
    return _place(path, cache).is_file()


def index_of(path: Path, cache: Path) -> ShardIndex:
    """The index of a shard, read through once and then kept in `cache`. Raises `DataError`."""
    kept = _place(path, cache)
    found = _restored(kept, path.stat().st_size)
    if found is None:
        found = _made(path)
        with contextlib.suppress(OSError):  # it can be made again
            _keep(kept, found)
    return found


def _place(path: Path, cache: Path) -> Path:
    stat = path.stat()
    text = f"{_VERSION}|{path.absolute()}|{stat.st_size}|{stat.st_mtime_ns}"
    return cache / "indices" / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"


def _made(path: Path) -> ShardIndex:
    try:
        samples = list(_samples(path))
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(f"dataset 'webdataset': {path} is cut off or is no tar file: {error}") from None
    return ShardIndex(
        np.array([sample.offset for sample in samples], dtype=np.int64),
        np.array([sample.size for sample in samples], dtype=np.int64),
        Names.pack([sample.name.encode("utf-8", "surrogateescape") for sample in samples]),
        Names.pack([sample.label.encode("utf-8") for sample in samples]),
    )


def _samples(path: Path) -> Iterator[_Sample]:
    with tarfile.open(path, "r:") as archive:
        members = (member for member in archive if _may_belong(member))
        for key, group in itertools.groupby(members, key=lambda member: _key(member.name)):
            found = {_kind(member.name): member for member in group}
            image = found.get("image")
            if image is None:  # something else than a sample
                continue
            label = _label(archive, found)
            if label is None:
                raise DataError(
                    f"dataset 'webdataset': {key} in {path} has no label; expected {key}.cls with a "
                    f'number or a class name, or {key}.json with a "label"'
                )
            yield _Sample(image.offset_data, image.size, image.name, label)


def _may_belong(member: tarfile.TarInfo) -> bool:
    # Hidden files are no samples: tar on macOS puts a `._0001.png` beside every 0001.png.
    hidden = member.name.rpartition("/")[2].startswith(".")
    return member.isreg() and not member.issparse() and not hidden


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.split(".")[0]


def _kind(name: str) -> str:
    last = name.rpartition(".")[2].lower()
    return "image" if f".{last}" in SUFFIXES else last


def _label(archive: tarfile.TarFile, found: dict[str, tarfile.TarInfo]) -> str | None:
    for kind in ("cls", "json"):
        member = found.get(kind)
        file = archive.extractfile(member) if member is not None else None
        if file is None:
            continue
        data = file.read(_MOST_LABEL_BYTES)
        if kind == "cls":
            return data.decode("utf-8").strip()
        document = reading.parse_json(data, where=found[kind].name)
        known = document if isinstance(document, dict) else {}
        value = next((known[k] for k in _LABEL_KEYS if k in known), None)
        if isinstance(value, int | str):
            return str(value)
    return None


def _keep(path: Path, index: ShardIndex) -> None:
    arrays: dict[str, Any] = {
        "offsets": index.offsets, "sizes": index.sizes,
        "names": index.names.text, "name_ends": index.names.ends,
        "labels": index.labels.text, "label_ends": index.labels.ends,
    }  # fmt: skip
    files.write_with(path, lambda temporary: np.savez(temporary, **arrays))


def _restored(path: Path, size: int) -> ShardIndex | None:
    """What was kept, unless it is damaged: then it is made again."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            found = ShardIndex(
                kept["offsets"],
                kept["sizes"],
                Names(kept["names"], kept["name_ends"]),
                Names(kept["labels"], kept["label_ends"]),
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return found if _is_sound(found, size) else None


def _is_sound(index: ShardIndex, size: int) -> bool:
    numbers = (index.offsets, index.sizes, index.names.ends, index.labels.ends)
    if any(each.dtype != np.int64 or each.shape != index.offsets.shape for each in numbers):
        return False
    names = all(
        each.text.dtype == np.uint8 and (np.diff(each.ends, prepend=0) >= 0).all() for each in
        (index.names, index.labels)
    )  # fmt: skip
    return bool(names and (index.sizes >= 0).all() and (index.offsets + index.sizes <= size).all())
