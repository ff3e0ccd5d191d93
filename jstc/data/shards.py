"""Which tar files a WebDataset consists of, and the names of its classes. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from jstc import reading
from jstc.data import remote
from jstc.errors import DataError

__all__ = ["WHERE", "Shards", "class_names", "find"]

WHERE = (
    "a folder with train/*.tar and val/*.tar (or train-*.tar and val-*.tar), or a quoted pattern of files or "
    "URLs such as 'https://HOST/{train-{0000..1023},val-{00..63}}.tar'"
)
_SPLITS = {
    "train": ("train", "training"),
    "test": ("val", "valid", "validation", "test", "testing"),  # the first that there is
}
_MOST_SHARDS = 1_000_000
_MOST_BYTES = 64 * 2**20  # of a list of classes
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


class Shards(NamedTuple):
    """Paths or URLs of a data set's shards, and the places that may hold its list of classes."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    places: tuple[str, ...]

    @property
    def remote(self) -> bool:
        """Are some of them elsewhere?"""
        return any(map(remote.is_url, (*self.train, *self.test)))


def find(root: Path) -> Shards:
    """The shards of a folder, or those that a pattern names. Raises `DataError`."""
    text = _pattern(root)
    if root.is_dir():
        found = [str(path) for path in sorted(root.glob("*.tar")) + sorted(root.glob("*/*.tar"))]
        places: tuple[str, ...] = (str(root),)
    else:
        found = list(dict.fromkeys(place for each in text.split("::") for place in _expanded(each)))
        places = tuple(dict.fromkeys(part for shard in found[:1] for part in _folders(shard)))
    train, test = (_of_split(found, names) for names in _SPLITS.values())
    for split, shards in (("training", train), ("test", test)):
        if not shards:
            raise DataError(f"dataset 'webdataset': no {split} shards in {text}; expected {WHERE}")
    _require_files(train + test)
    return Shards(train, test, places)


def _pattern(root: PurePath) -> str:
    # A path loses one of a URL's two slashes, and on Windows turns the others round.
    return re.sub(r"(https?):/+", r"\1://", root.as_posix())


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
    missing = [shard for shard in shards if not remote.is_url(shard) and not Path(shard).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"dataset 'webdataset': no shard at {missing[0]}{more}")


def class_names(shards: Shards) -> tuple[str, ...] | None:
    """Class names in label order, from `classes.txt` or `dataset.json`; None where there is neither."""
    for place in shards.places:
        for name in ("classes.txt", "dataset.json"):
            data = _contents(f"{place}/{name}")
            if data is not None:
                return _parsed(data, f"{place}/{name}")
    return None


def _contents(place: str) -> bytes | None:
    if remote.is_url(place):
        return remote.read(place, limit=_MOST_BYTES)
    path = Path(place)
    return reading.read_bytes(path, limit=_MOST_BYTES) if path.is_file() else None


def _parsed(data: bytes, where: str) -> tuple[str, ...]:
    try:
        if where.endswith(".json"):
            document = reading.parse_json(data, where=where)
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
