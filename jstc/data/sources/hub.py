"""Data sets of the Hugging Face Hub, or saved in its forms, by the `datasets` library. No torch here.

The library finds, downloads and keeps them; its tables lie on the disk. jstc takes rows as they are stored,
and decodes them as any other images. Code of a data set is not run.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jstc._version import install_command
from jstc.data.base import DataInfo, Source
from jstc.data.images import Encoded, Images
from jstc.data.looks import set_aside_note
from jstc.data.sampling import set_aside
from jstc.data.sources import tables
from jstc.data.sources.folder import TEST_NAMES, TRAIN_NAMES
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = ["PREFIX", "WHERE", "check", "load"]

PREFIX = "hf:"
WHERE = "nothing; the name is hf:ORG/NAME, hf:ORG/NAME:CONFIG, or hf:./DIR of a folder"
_NAME = re.compile(r"(?P<repository>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")
_MOST_LINES = 2


def check(name: str, settings: InputSettings) -> DataInfo:
    """Find, or download, the data set, and look at some of its images. Raises `DataError`."""
    return _looked_into(name, settings)[0]


def load(name: str, settings: InputSettings) -> Source:
    """All rows: small images to be decoded into memory, others as they are needed, from the disk."""
    info, size, (train, test) = _looked_into(name, settings)
    return Source(info, train, test, memory_size=size)


class _Form(NamedTuple):
    info: DataInfo
    memory_size: tuple[int, int] | None
    splits: tuple[Images, Images]


def _looked_into(name: str, settings: InputSettings) -> _Form:
    splits = _splits(name)
    train_name = _training(name, splits)
    columns = _columns(name, splits[train_name], settings)
    train = _Rows.of(name, train_name, splits[train_name], columns)
    test = _test(name, splits, columns, train)
    labels = columns.classes or tables.class_names(name, train.values, train.where)
    numbered = [each.images(name, labels) for each in (train, test) if each is not None]
    words = ("training", "test") if test is not None else ("",)
    seen = [tables.look_into(name, word, each, settings) for word, each in zip(words, numbered, strict=True)]
    count, notes = sum(len(each.labels) for each in numbered), []
    if test is None:
        rest, chosen = set_aside(numbered[0].labels, settings.test_fraction)
        notes = [set_aside_note(settings)]
        numbered = [numbered[0].picked(rest), numbered[0].picked(chosen)]
    unused = [each for each in splits if each not in (train_name, test.split if test else None)]
    if unused:
        used = f"{train_name} and {test.split}" if test else train_name
        notes.append(f"of the splits of {name}, {used} are used, and not {', '.join(unused)}")
    info, size = tables.described(name, labels, seen, settings, images=count, notes=notes)
    return _Form(info, size, (numbered[0], numbered[1]))


# Splits, columns, rows.


class _Columns(NamedTuple):
    """Names of the columns in use, and of the classes, where the label's column knows them."""

    image: str
    label: str
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Rows:
    """A split: gives image `index` as it is stored; `values` are the labels."""

    split: str
    where: str
    table: Any
    column: str
    values: list[Any]

    @classmethod
    def of(cls, name: str, split: str, table: Any, columns: _Columns) -> _Rows:
        """A split of the library, its images left encoded. Raises `DataError` for a column of no images."""
        missing = {columns.image, columns.label} - set(table.column_names)
        if missing:
            raise DataError(f"dataset '{name}': split {split} has no column {' and '.join(sorted(missing))}")
        column = table.select_columns([columns.label]).with_format("arrow")[:].column(columns.label)
        own = getattr(table.features[columns.label], "names", ())
        labels = tables.renumbered(column.to_pylist(), own, columns.classes)
        images = table.select_columns([columns.image])
        try:
            images = images.cast_column(columns.image, _library(name).Image(decode=False))
        except (TypeError, ValueError, NotImplementedError) as error:  # as pyarrow's are
            raise DataError(
                f"dataset '{name}': column {columns.image} has no encoded images: {_first_line(error)}"
            ) from None
        return cls(split, f"{split} of {name}", images, columns.image, labels)

    def images(self, name: str, labels: Sequence[str]) -> Images:
        """The images with their labels as numbers. Raises `DataError`."""
        read = _Reader(self.table, self.column, self.where)
        return Images(read, tables.class_numbers(name, self.values, labels, self.where))


@dataclass(frozen=True, eq=False)
class _Reader:
    table: Any
    column: str
    where: str

    def __call__(self, index: int) -> Encoded:
        found, where = self.table[index][self.column], f"row {index} of {self.where}"
        if found is None or found["bytes"] is not None or not found["path"]:
            return Encoded(None if found is None else found["bytes"], where)
        return Encoded(Path(found["path"]), found["path"])


def _training(name: str, splits: dict[str, Any]) -> str:
    lower = {split.lower(): split for split in reversed(splits)}
    found = next((lower[each] for each in TRAIN_NAMES if each in lower), None)
    if found is None and len(splits) == 1:
        found = next(iter(splits))
    if found is None:
        raise DataError(f"dataset '{name}' has no split train; its splits: {', '.join(splits)}")
    return found


def _test(name: str, splits: dict[str, Any], columns: _Columns, train: _Rows) -> _Rows | None:
    """The test split, else the validation split: the first one with labels; None where there is none."""
    lower = {split.lower(): split for split in reversed(splits) if split != train.split}
    for each in TEST_NAMES:
        if each in lower and columns.label in splits[lower[each]].column_names:
            rows = _Rows.of(name, lower[each], splits[lower[each]], columns)
            if not tables.is_unlabelled(rows.values):
                return rows
    return None


def _columns(name: str, table: Any, settings: InputSettings) -> _Columns:
    library, features = _library(name), table.features
    images = [column for column, feature in features.items() if isinstance(feature, library.Image)]
    classes = [column for column, feature in features.items() if isinstance(feature, library.ClassLabel)]
    image = _chosen(name, "image", features, settings.image_column, tables.IMAGE_NAMES, images)
    label = _chosen(name, "label", features, settings.label_column, tables.LABEL_NAMES, classes)
    feature = features[label]
    if isinstance(feature, library.ClassLabel):
        return _Columns(image, label, tuple(feature.names))
    if isinstance(feature, library.Value) and re.match(r"u?int|(large_)?string|bool", feature.dtype):
        return _Columns(image, label, ())
    raise DataError(
        f"dataset '{name}': column {label} is {feature}; expected a class for each image, a number or a text",
        "name another by input.label_column",
    )


def _chosen(
    name: str, what: str, features: Any, wanted: str | None, usual: Sequence[str], fitting: Sequence[str]
) -> str:
    """A column: the wanted one, one that fits and has a usual name, the only one that fits, a usual name."""
    candidates = [wanted] if wanted is not None else [*(each for each in usual if each in fitting)]
    if not candidates and len(fitting) < 2:
        candidates = [*fitting, *usual]
    found = next((each for each in candidates if each in features), None)
    if found is None:
        several = f"{' and '.join(fitting)} could be it" if len(fitting) > 1 else "none is of that kind"
        reason = f"there is no {wanted}" if wanted is not None else several
        raise DataError(
            f"dataset '{name}': which column has the {what}? {reason}; its columns: {', '.join(features)}",
            f"name yours by input.{what}_column",
        )
    return found


# The library: what it finds by a name, and what goes wrong with it.


def _splits(name: str) -> dict[str, Any]:
    text = name.removeprefix(PREFIX)
    if text.startswith((".", "/", "~")):
        return _of_folder(name, Path(text).expanduser())
    parts = _NAME.fullmatch(text)
    if parts is None:
        raise DataError(f"dataset '{name}' is no name of a data set; expected hf:ORG/NAME or hf:./DIR")
    return _of_hub(name, parts["repository"], parts["config"])


@functools.cache  # asking the Hub again takes long, above all where it does not answer
def _of_hub(name: str, repository: str, config: str | None) -> dict[str, Any]:
    return _loaded(name, repository, config)


def _of_folder(name: str, folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"dataset '{name}': {folder} {what}")
    if not any((folder / each).is_file() for each in ("dataset_dict.json", "state.json")):
        return _loaded(name, str(folder.absolute()), None)
    library = _library(name)
    try:
        return _by_split(library.load_from_disk(str(folder)))
    except Exception as error:
        raise _failed(name, error) from error


def _loaded(name: str, place: str, config: str | None) -> dict[str, Any]:
    library = _library(name)
    try:
        return _by_split(library.load_dataset(place, config, trust_remote_code=False))
    except Exception as error:
        raise _failed(name, error) from error


def _by_split(found: Any) -> dict[str, Any]:
    return dict(found) if hasattr(found, "keys") else {"train": found}


def _failed(name: str, error: Exception) -> DataError:
    """An error of the library, whose kinds are its own and those of all that it uses, in words."""
    if isinstance(error, ConnectionError):
        return DataError(
            f"dataset '{name}': no connection to the Hugging Face Hub, and the data are not on this machine",
            "download them where there is a connection, and take them over as a folder: hf:./DIR",
        )
    return DataError(
        f"dataset '{name}': the datasets library cannot load it: {_first_line(error)}",
        "expected hf:ORG/NAME, hf:ORG/NAME:CONFIG where it has several configurations, or hf:./DIR",
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:_MOST_LINES]) or type(error).__name__


@functools.cache
def _library(name: str) -> Any:
    try:
        import datasets  # late, because it takes seconds
    except ImportError:
        raise DataError(f"dataset '{name}' needs the package datasets: {install_command('hf')}") from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    return datasets
