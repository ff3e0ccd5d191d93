"""The tar files of a WebDataset, the names of its classes, and an index of the samples in each file.

No torch here.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from jstc.core import files
from jstc.data.images import endings
from jstc.data.sampling import Indices, PackedStrings
from jstc.data.sources.folder import TEST_NAMES, TRAIN_NAMES
from jstc.errors import DataError

__all__ = ["WHERE", "ShardIndex", "Shards", "class_names", "find", "index_of", "is_kept"]

WHERE = (
    "a folder with train/*.tar and val/*.tar (or train-*.tar and val-*.tar), or a quoted pattern of files "
    "such as 'DIR/{train-{0000..1023},val-{00..63}}.tar'"
)
_SPLITS = {"train": TRAIN_NAMES, "test": TEST_NAMES}
_MOST_SHARDS = 1_000_000
_MOST_BYTES = 64 * 2**20  # of a list of classes
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class Shards(NamedTuple):
    """Paths of a data set's shards, the folders that may hold its list of classes, and shards of no split."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    places: tuple[str, ...]
    unread: tuple[str, ...]


def find(root: Path) -> Shards:
    """The shards of a folder, or those that a pattern names. Raises `DataError`."""
    text = root.as_posix()
    if root.is_dir():
        found = [str(path) for path in sorted(root.glob("*.tar")) + sorted(root.glob("*/*.tar"))]
        places: tuple[str, ...] = (str(root),)
    else:
        found = list(dict.fromkeys(place for each in text.split("::") for place in _expanded(each)))
        places = tuple(dict.fromkeys(part for shard in found[:1] for part in _folders(shard)))
    train, test = (_of_split(found, names) for names in _SPLITS.values())
    alone = len(train) == len(found)  # a share of it is set aside for the test
    for split, shards in (("training", train), ("test", test)):
        if not shards and not (train and alone):
            raise DataError(f"dataset 'webdataset': no {split} shards in {text}; expected {WHERE}")
    _require_files(train + test)
    used = {*train, *test}
    return Shards(train, test, places, tuple(shard for shard in found if shard not in used))


def _expanded(pattern: str) -> Iterator[str]:
    """`a-{00..12}.tar` and `{train,val}.tar`, as the shell does it; inner braces first."""
    todo, count = [pattern], 0
    while todo:
        text = todo.pop()
        match = _BRACES.search(text)
        if match is None:
            yield text
            count += 1
            continue
        parts = _alternatives(match[1])
        if len(parts) * (len(todo) + 1) + count > _MOST_SHARDS:
            raise DataError(f"dataset 'webdataset': {pattern} names more than {_MOST_SHARDS:,} shards")
        todo += [text[: match.start()] + part + text[match.end() :] for part in reversed(parts)]


def _alternatives(inside: str) -> list[str]:
    whole = _RANGE.fullmatch(inside)
    if whole is None:
        return inside.split(",")
    first, last = int(whole[1]), int(whole[2])
    if not 0 <= last - first < _MOST_SHARDS:
        raise DataError(f"dataset 'webdataset': {{{inside}}} is no range of shards, such as {{0000..1023}}")
    return [str(number).zfill(len(whole[1])) for number in range(first, last + 1)]


def _of_split(shards: Sequence[str], names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        found = tuple(shard for shard in shards if _split_name(shard) == name)
        if found:
            return found
    return ()


def _split_name(shard: str) -> str | None:
    """The first word in the file's name, else in its folder's, that names a split."""
    path = PurePosixPath(shard.replace("\\", "/"))
    known = {name for names in _SPLITS.values() for name in names}
    words = re.findall(r"[a-z]+", path.stem.lower()) + re.findall(r"[a-z]+", path.parent.name.lower())
    return next((word for word in words if word in known), None)


def _folders(shard: str) -> tuple[str, str]:
    """The folder of a shard and the one above."""
    folder = shard.rpartition("/")[0] or "."
    return folder, folder.rpartition("/")[0] or "."


def _require_files(shards: Sequence[str]) -> None:
    missing = [shard for shard in shards if not Path(shard).exists()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"dataset 'webdataset': no shard at {missing[0]}{more}")
    for shard in shards:
        files.require_regular(Path(shard))


def class_names(shards: Shards) -> tuple[str, ...] | None:
    """Class names in label order, from `classes.txt` or `dataset.json`; None where there is neither."""
    for place in shards.places:
        for name in ("classes.txt", "dataset.json"):
            data = _contents(f"{place}/{name}")
            if data is not None:
                return _parsed(data, f"{place}/{name}")
    return None


def _contents(place: str) -> bytes | None:
    path = Path(place)
    return files.read_bytes(path, limit=_MOST_BYTES) if path.exists() else None


def _parsed(data: bytes, where: str) -> tuple[str, ...]:
    try:
        if where.endswith(".json"):
            document = files.parse_json(data, where=where)
            names = document["classes"] if isinstance(document, dict) else document
        else:
            names = [line.strip() for line in data.decode("utf-8").splitlines() if line.strip()]
        if not names or not all(isinstance(name, str) for name in names) or isinstance(names, str):
            raise ValueError("no list of names")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"dataset 'webdataset': {where} does not list the classes ({error}); expected one name a line, "
            'or {"classes": ["cat", "dog"]} in dataset.json'
        ) from None
    return tuple(names)


# The index: where the samples of a tar file lie, so that each can be read alone.
#
# Files of a shard that follow each other and have the same name up to the first dot are one sample, as
# WebDataset has it: an image, and its label as the text of a `.cls` or in a `.json`.

_VERSION = 2
_LABEL_KINDS = ("cls", "json")
_LABEL_KEYS = ("label", "cls", "class", "target")
_MOST_LABEL_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Offset, size in bytes and name of each sample's image, and its label as text.

    `left_out` counts the files of samples without an image that can be read, by how their names end.
    """

    offsets: Indices
    sizes: Indices
    names: PackedStrings
    labels: PackedStrings
    left_out: Counter[str]


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
        files.require_regular(path)
        left_out: Counter[str] = Counter()
        samples = list(_samples(path, left_out))
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(f"dataset 'webdataset': {path} is cut off or is no tar file: {error}") from None
    return ShardIndex(
        np.array([sample.offset for sample in samples], dtype=np.int64),
        np.array([sample.size for sample in samples], dtype=np.int64),
        PackedStrings.pack([sample.name.encode("utf-8", "surrogateescape") for sample in samples]),
        PackedStrings.pack([sample.label.encode("utf-8") for sample in samples]),
        left_out,
    )


def _samples(path: Path, left_out: Counter[str]) -> Iterator[_Sample]:
    with tarfile.open(path, "r:") as archive:
        members = (member for member in archive if _may_belong(member))
        for key, group in itertools.groupby(members, key=lambda member: _key(member.name)):
            found = {_kind(member.name): member for member in group}
            image = found.get("image")
            if image is None:
                if found.keys() & set(_LABEL_KINDS):  # else it is something else than a sample
                    left_out.update(f".{kind}" for kind in found if kind not in _LABEL_KINDS)
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
    return "image" if f".{last}" in endings() else last


def _label(archive: tarfile.TarFile, found: dict[str, tarfile.TarInfo]) -> str | None:
    for kind in _LABEL_KINDS:
        member = found.get(kind)
        file = archive.extractfile(member) if member is not None else None
        if file is None:
            continue
        data = file.read(_MOST_LABEL_BYTES)
        if kind == "cls":
            return data.decode("utf-8").strip()
        document = files.parse_json(data, where=found[kind].name)
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
        "left_out": np.array(list(index.left_out), dtype=str),
        "left_out_counts": np.array(list(index.left_out.values()), dtype=np.int64),
    }  # fmt: skip
    files.write_with(path, lambda temporary: np.savez(temporary, **arrays))


def _restored(path: Path, size: int) -> ShardIndex | None:
    """What was kept, unless it is damaged: then it is made again."""
    try:
        with files.open_regular(path) as file, np.load(file, allow_pickle=False) as kept:
            found = ShardIndex(
                kept["offsets"],
                kept["sizes"],
                PackedStrings(kept["names"], kept["name_ends"]),
                PackedStrings(kept["labels"], kept["label_ends"]),
                Counter(dict(zip(kept["left_out"].tolist(), kept["left_out_counts"].tolist(), strict=True))),
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
