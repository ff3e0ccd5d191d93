"""Images in parquet files, as Hugging Face stores them. No torch here.

`train.parquet` and `test.parquet` (or `validation`, `val`), or the shards `train-00000-of-00005*.parquet`,
in the folder or in `data/` below it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jstc.core import files
from jstc.data.base import DataInfo, Source
from jstc.data.images import Encoded, Images
from jstc.data.looks import LOOKED_AT, Seen, look_at, set_aside_note, unread_note
from jstc.data.sampling import set_aside
from jstc.data.sources import tables
from jstc.data.sources.parquet_columns import Columns, columns, metadata, read_column, some_images
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = ["WHERE", "check", "find", "has_files", "images", "load"]

WHERE = "a folder with train.parquet and test.parquet (or validation.parquet), columns image and label"
_NAMES = {"train": ("train",), "test": ("test", "validation", "val")}
_MOST_BYTES = 64 * 2**20  # of a list of classes
_WHOLE_BYTES = 256 * 2**20  # of files that are read through for a look at them


class _Table(NamedTuple):
    """The files of a split, the columns in use, and the labels of their rows as they stand there."""

    paths: list[Path]
    columns: Columns
    values: list[Any]

    @property
    def name(self) -> str:
        """The files in messages."""
        return str(self.paths[0])


def check(root: Path, settings: InputSettings) -> DataInfo:
    """Find what is wrong by the schemas, the labels and a look at some images. Raises `DataError`."""
    return _looked_into(root, settings)[0]


def load(root: Path, settings: InputSettings) -> Source:
    """All rows: small images to be decoded into memory, others as they are needed."""
    info, size = _looked_into(root, settings)
    return Source(info, *_splits(root, info.labels, settings), memory_size=size)


def images(root: Path, split: str, labels: tuple[str, ...], settings: InputSettings) -> Images:
    """The images of the split "train" or "test", encoded in memory. Raises `DataError`."""
    return _images(_table(root, split, settings), labels)


def _looked_into(root: Path, settings: InputSettings) -> tuple[DataInfo, tuple[int, int] | None]:
    listed = _listed_classes(root)
    splits = ("train", "test") if _has_test(root) else ("train",)
    found = [_table(root, split, settings) for split in splits]
    labels = listed or _class_names(found[0])
    numbers = [tables.class_numbers("parquet", table.values, labels, table.name) for table in found]
    names = ("training", "test") if len(found) == 2 else ("",)
    seen = [_look_into(name, table, labels, settings) for name, table in zip(names, found, strict=True)]
    count = sum(map(len, numbers))
    unread = unread_note(
        [path.name for path in _files(root) if not any(path in each.paths for each in found)]
    )
    notes = [note for note in (unread, set_aside_note(settings) if len(found) == 1 else None) if note]
    return tables.described("parquet", labels, seen, settings, images=count, notes=notes)


def _splits(root: Path, labels: tuple[str, ...], settings: InputSettings) -> tuple[Images, Images]:
    train = images(root, "train", labels, settings)
    if _has_test(root):
        return train, images(root, "test", labels, settings)
    rest, test = set_aside(train.labels, settings.test_fraction)
    return train.picked(rest), train.picked(test)


def _look_into(split: str, table: _Table, labels: tuple[str, ...], settings: InputSettings) -> Seen:
    """A look at images all over the files; of large ones at the beginnings of some row groups."""
    if sum(path.stat().st_size for path in table.paths) <= _WHOLE_BYTES:
        return tables.look_into("parquet", split, _images(table, labels), settings)
    some = some_images(table.paths, table.columns, LOOKED_AT)
    reads = [partial(Encoded, *each) for each in some]
    return look_at("parquet", split, reads, images=len(table.values), settings=settings)


@dataclass(frozen=True)
class _Rows:
    """Gives image `index` of an Arrow array of encoded images; `where` names them in errors."""

    array: Any
    where: str

    def __call__(self, index: int) -> Encoded:
        value = self.array[index]
        return Encoded(value.as_buffer() if value.is_valid else None, f"row {index} of {self.where}")


def _images(table: _Table, labels: tuple[str, ...]) -> Images:
    numbers = tables.class_numbers("parquet", table.values, labels, table.name)
    return Images(_Rows(read_column(table.paths, table.columns.encoded, images=True), table.name), numbers)


def _table(root: Path, split: str, settings: InputSettings) -> _Table:
    paths = find(root, split)
    found = [columns(path, settings) for path in paths]
    odd = next((path for path, each in zip(paths, found, strict=True) if each != found[0]), None)
    if odd is not None:
        raise DataError(f"dataset 'parquet': {odd} has its images or labels in other columns than {paths[0]}")
    values = read_column(paths, found[0].label).to_pylist()
    if split != "train" and (own := _names_in_metadata(paths[0], found[0].label)):
        train = find(root, "train")[0]
        values = tables.renumbered(values, own, _names_in_metadata(train, columns(train, settings).label))
    return _Table(paths, found[0], values)


# Finding the files, and what is in their columns.


def has_files(root: Path) -> bool:
    """Is there a train split in parquet files?"""
    return bool(_shards(root, "train"))


def _files(root: Path) -> list[Path]:
    places = [folder for folder in (root, root / "data") if folder.is_dir()]
    return [path for folder in places for path in sorted(folder.glob("*.parquet"))]


def _has_test(root: Path) -> bool:
    """Is there a test split? Without it nothing else may lie there that could be meant as one."""
    others = [path for path in _files(root) if path.stem.split("-")[0] != "train"]
    return bool(others) or any(_shards(root, name) for name in _NAMES["test"])


def find(root: Path, split: str) -> list[Path]:
    """The files of "train" or "test", in order. Raises `DataError` when there are none, or not all."""
    for name in _NAMES[split]:
        found = _shards(root, name)
        if found:
            _check_shards(found)
            return found
    names = " or ".join(f"{name}.parquet" for name in _NAMES[split])
    raise DataError(f"dataset 'parquet': {root} has no {names} (nor shards of it); expected {WHERE}")


def _shards(root: Path, name: str) -> list[Path]:
    for folder in (root, root / "data"):
        whole = folder / f"{name}.parquet"
        if whole.exists():
            return [whole]
        found = sorted(folder.glob(f"{name}-[0-9]*-of-[0-9]*.parquet"))
        if found:
            return found
    return []


def _check_shards(found: list[Path]) -> None:
    match = re.search(r"-of-([0-9]+)", found[0].name)
    if match and len(found) != int(match[1]):
        raise DataError(
            f"dataset 'parquet': {found[0].parent} has {len(found)} shards like {found[0].name}; "
            f"the name says {int(match[1])}"
        )


def _listed_classes(root: Path) -> tuple[str, ...]:
    """Class names in label order from classes.txt, none where it is not there."""
    for folder in (root, root / "data"):
        path = folder / "classes.txt"
        if path.exists():
            lines = [line.strip() for line in files.read_text(path, limit=_MOST_BYTES).splitlines()]
            return tuple(line for line in lines if line)
    return ()


def _class_names(train: _Table) -> tuple[str, ...]:
    """Class names in label order from the schema's metadata, else from the labels."""
    known = _names_in_metadata(train.paths[0], train.columns.label)
    return known or tables.class_names("parquet", train.values, train.name)


def _names_in_metadata(path: Path, label: str) -> tuple[str, ...]:
    text = metadata(path).get(b"huggingface", b"{}")
    try:
        names = files.parse_json(text, where=str(path))["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()
