"""Images in parquet files, as Hugging Face stores them. No torch here.

`train.parquet` and `test.parquet` (or `validation`, `val`), or the shards `train-00000-of-00005*.parquet`,
in the folder or in `data/` below it. Small images (up to 96 pixels, 1 GiB decoded) are decoded once, into
memory, and augmented by shifts and mirroring; others stay encoded in memory, and are decoded, randomly
cropped and mirrored as they are needed.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jstc.core import files
from jstc.data.base import IMAGENET_MEAN, IMAGENET_STD, DataInfo, Source, background_of, resize_side, size_of
from jstc.data.images import Encoded, Images, UnreadableImageError, open_bytes
from jstc.data.sampling import Indices
from jstc.data.sources.parquet_columns import columns, first_images, metadata, read_column
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = [
    "WHERE",
    "check",
    "find",
    "has_files",
    "images",
    "label_names",
    "load",
    "read_labels",
]

WHERE = "a folder with train.parquet and test.parquet (or validation.parquet), columns image and label"
_NAMES = {"train": ("train",), "test": ("test", "validation", "val")}
_MAX_CLASSES = 1_000_000
_IMAGES_LOOKED_AT = 32
_DECODED_BYTES = 2**30
_MOST_BYTES = 64 * 2**20  # of a list of classes


def check(root: Path, settings: InputSettings) -> DataInfo:
    """Find what is wrong by the schemas, the labels and the first image. Raises `DataError`."""
    train, test = find(root, "train"), find(root, "test")
    labels = label_names(root, train)
    for paths in (train, test):
        read_labels(paths, labels)
    sizes = _sizes(train)
    height, width, by = size_of(sizes, settings.image_size)
    crop_of = None if _in_memory(root, labels, _own_size(sizes)) else resize_side(height, width)
    return DataInfo(
        "parquet",
        labels,
        3,
        height,
        width,
        IMAGENET_MEAN,
        IMAGENET_STD,
        crop_of,
        size_from=by,
        background=background_of(settings),
    )


def load(root: Path, settings: InputSettings) -> Source:
    """All rows: small images to be decoded into memory, others as they are needed."""
    info = check(root, settings)
    size = _own_size(_sizes(find(root, "train")))
    in_memory = _in_memory(root, info.labels, size)
    train, test = (images(root, part, info.labels) for part in ("train", "test"))
    return Source(info, train, test, memory_size=size if in_memory else None)


def _sizes(train: list[Path]) -> list[tuple[int, int]]:
    """Height and width of the first images; the very first one must be readable."""
    first, *others = first_images(train[0], _IMAGES_LOOKED_AT)
    sizes = [open_bytes(first, f"row 0 of {train[0]}").size]
    for data in others:
        with contextlib.suppress(UnreadableImageError):
            sizes.append(open_bytes(data, "").size)
    return [(height, width) for width, height in sizes]


def _own_size(sizes: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The size of small images that all have one."""
    height, width, by = size_of(sizes, None)
    return (height, width) if by == "images" else None


def _in_memory(root: Path, labels: tuple[str, ...], size: tuple[int, int] | None) -> bool:
    if size is None:
        return False
    count = sum(len(read_labels(find(root, part), labels)) for part in ("train", "test"))
    return count * 3 * size[0] * size[1] <= _DECODED_BYTES


@dataclass(frozen=True)
class _Rows:
    """Reads image `index` from an Arrow array of encoded images; `where` names them in errors."""

    array: Any
    where: str

    def __call__(self, index: int) -> Encoded:
        value = self.array[index]
        return Encoded(value.as_buffer() if value.is_valid else None, f"row {index} of {self.where}")


def images(root: Path, split: str, labels: tuple[str, ...]) -> Images:
    """The images of the split "train" or "test", encoded in memory. Raises `DataError`."""
    paths = find(root, split)
    encoded = read_column(paths, columns(paths[0]).encoded)
    return Images(_Rows(encoded, str(paths[0])), read_labels(paths, labels))


# Finding the files, and what is in their columns.


def has_files(root: Path) -> bool:
    """Is there a train split in parquet files?"""
    return bool(_shards(root, "train"))


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


def label_names(root: Path, train: list[Path]) -> tuple[str, ...]:
    """Class names in label order: from classes.txt, else the schema's metadata, else the labels."""
    for folder in (root, root / "data"):
        path = folder / "classes.txt"
        if path.exists():
            lines = [line.strip() for line in files.read_text(path, limit=_MOST_BYTES).splitlines()]
            return tuple(line for line in lines if line)
    label = columns(train[0]).label
    return _names_in_metadata(train[0], label) or _names_in_labels(train)


def _names_in_metadata(path: Path, label: str) -> tuple[str, ...]:
    text = metadata(path).get(b"huggingface", b"{}")
    try:
        names = files.parse_json(text, where=str(path))["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _names_in_labels(train: list[Path]) -> tuple[str, ...]:
    values = read_column(train, columns(train[0]).label).to_pylist()
    if any(isinstance(value, str) for value in values):
        return tuple(sorted({value for value in values if value is not None}))
    most = max((value for value in values if value is not None), default=-1)
    if not 0 <= most < _MAX_CLASSES:
        raise DataError(
            f"dataset 'parquet': the greatest label in {train[0]} is {most}; expected 0, 1, 2 ..."
        )
    return tuple(map(str, range(most + 1)))


def read_labels(paths: list[Path], names: tuple[str, ...]) -> Indices:
    """Labels int64 [N] as indices into `names`. Raises `DataError` for a label that is not one."""
    values = read_column(paths, columns(paths[0]).label).to_pylist()
    if not values:
        raise DataError(f"dataset 'parquet': {paths[0]} has no rows")
    index: dict[Any, int] = {name: number for number, name in enumerate(names)}
    index.update({number: number for number in range(len(names))})
    odd = next((row for row, value in enumerate(values) if value not in index), None)
    if odd is not None:
        what = "is not labelled" if values[odd] in (None, -1) else f"has label {values[odd]!r}"
        shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        where = f"row {odd} of {paths[0]}"
        raise DataError(f"dataset 'parquet': {where} {what}; expected one of {len(names)} classes: {shown}")
    return np.array([index[value] for value in values], dtype=np.int64)
