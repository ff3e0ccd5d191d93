"""Images in parquet files, as Hugging Face stores them. No torch here.

`train.parquet` and `test.parquet` (or `validation`, `val`), or the shards `train-00000-of-00005*.parquet`,
in the folder or in `data/` below it. Small images (up to 96 pixels, 1 GiB decoded) are decoded once, into
memory, and augmented by shifts and mirroring; others stay encoded in memory, and are decoded, randomly
cropped and mirrored as they are needed.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jstc.data.base import IMAGENET_MEAN, IMAGENET_STD, DataInfo, Source, resize_side
from jstc.data.images import Images, open_bytes
from jstc.data.sampling import Indices
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = [
    "WHERE",
    "Columns",
    "check",
    "columns",
    "find",
    "first_image",
    "has_files",
    "images",
    "label_names",
    "load",
    "read_images",
    "read_labels",
]

WHERE = "a folder with train.parquet and test.parquet (or validation.parquet), columns image and label"
_NAMES = {"train": ("train",), "test": ("test", "validation", "val")}
_IMAGE = ("image", "img")
_LABEL = ("label", "fine_label")
_MAX_CLASSES = 1_000_000
_SMALL_SIDE = 96
_SIDE = 224
_DECODED_BYTES = 2**30


def check(root: Path, settings: InputSettings) -> DataInfo:
    """Find what is wrong by the schemas, the labels and the first image. Raises `DataError`."""
    train, test = find(root, "train"), find(root, "test")
    labels = label_names(root, train)
    for files in (train, test):
        read_labels(files, labels)
    own = _own_size(train)
    height, width = own or (_SIDE, _SIDE)
    if settings.image_size:
        height = width = settings.image_size
    crop_of = None if _in_memory(root, labels, own) else resize_side(height, width)
    return DataInfo("parquet", labels, 3, height, width, IMAGENET_MEAN, IMAGENET_STD, crop_of)


def load(root: Path, settings: InputSettings) -> Source:
    """All rows: small images to be decoded into memory, others as they are needed."""
    info = check(root, settings)
    size = _own_size(find(root, "train"))
    in_memory = _in_memory(root, info.labels, size)
    train, test = (images(root, part, info.labels) for part in ("train", "test"))
    return Source(info, train, test, memory_size=size if in_memory else None)


def _own_size(train: list[Path]) -> tuple[int, int] | None:
    """Height and width of the first image, when it is a small one."""
    width, height = open_bytes(first_image(train[0]), f"row 0 of {train[0]}").size
    return (height, width) if max(height, width) <= _SMALL_SIDE else None


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

    def __call__(self, index: int) -> Image.Image:
        value = self.array[index]
        return open_bytes(value.as_buffer() if value.is_valid else None, f"row {index} of {self.where}")


def images(root: Path, split: str, labels: tuple[str, ...]) -> Images:
    """The images of the split "train" or "test", encoded in memory. Raises `DataError`."""
    files = find(root, split)
    _check_memory(files)
    return Images(_Rows(read_images(files), str(files[0])), read_labels(files, labels))


def _check_memory(files: list[Path]) -> None:
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    size = sum(path.stat().st_size for path in files)
    if size > memory / 2:
        raise DataError(
            f"dataset 'parquet': {files[0].parent} holds {size / 2**30:.1f} GiB, too much for the "
            f"{memory / 2**30:.1f} GiB of memory here; unpack it into an image tree (dataset imagefolder)"
        )


# Finding the files, and reading their columns.


@dataclass(frozen=True)
class Columns:
    """Names of the columns in use."""

    image: str
    label: str


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
        if whole.is_file():
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


def columns(path: Path) -> Columns:
    """The image and label columns by the schema of a file. Raises `DataError` when one is missing."""
    schema = _schema(path)
    image = next((name for name in _IMAGE if name in schema.names), None)
    label = next((name for name in _LABEL if name in schema.names), None)
    if image is None or label is None:
        missing = " and ".join(n for n, found in (("image", image), ("label", label)) if found is None)
        raise DataError(f"dataset 'parquet': {path} has no column {missing}; its columns: {schema.names}")
    _check_types(path, schema.field(image).type, schema.field(label).type)
    return Columns(image, label)


def _arrow() -> tuple[Any, Any]:
    # Late, because it takes a fifth of a second, and other data sets have no use for it.
    import pyarrow
    import pyarrow.parquet

    return pyarrow, pyarrow.parquet


def _schema(path: Path) -> Any:
    pa, pq = _arrow()
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"dataset 'parquet': {path} is not a parquet file: {error}") from None


def _check_types(path: Path, image: Any, label: Any) -> None:
    types = _arrow()[0].types
    if types.is_struct(image):
        image = next(
            (image.field(i).type for i in range(image.num_fields) if image.field(i).name == "bytes"), image
        )
    if not (types.is_binary(image) or types.is_large_binary(image)):
        raise DataError(f"dataset 'parquet': image in {path} is {image}; expected bytes of encoded images")
    if not (types.is_integer(label) or types.is_string(label) or types.is_large_string(label)):
        raise DataError(f"dataset 'parquet': label in {path} is {label}; expected whole numbers or text")


def label_names(root: Path, train: list[Path]) -> tuple[str, ...]:
    """Class names in label order: from classes.txt, else the schema's metadata, else the labels."""
    for folder in (root, root / "data"):
        path = folder / "classes.txt"
        if path.is_file():
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            return tuple(line for line in lines if line)
    label = columns(train[0]).label
    return _names_in_metadata(train[0], label) or _names_in_labels(train)


def _names_in_metadata(path: Path, label: str) -> tuple[str, ...]:
    text = (_schema(path).metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(text)["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _names_in_labels(train: list[Path]) -> tuple[str, ...]:
    values = _column(train, columns(train[0]).label).to_pylist()
    if any(isinstance(value, str) for value in values):
        return tuple(sorted({value for value in values if value is not None}))
    most = max((value for value in values if value is not None), default=-1)
    if not 0 <= most < _MAX_CLASSES:
        raise DataError(
            f"dataset 'parquet': the greatest label in {train[0]} is {most}; expected 0, 1, 2 ..."
        )
    return tuple(map(str, range(most + 1)))


def read_labels(files: list[Path], names: tuple[str, ...]) -> Indices:
    """Labels int64 [N] as indices into `names`. Raises `DataError` for a label that is not one."""
    values = _column(files, columns(files[0]).label).to_pylist()
    if not values:
        raise DataError(f"dataset 'parquet': {files[0]} has no rows")
    index: dict[Any, int] = {name: number for number, name in enumerate(names)}
    index.update({number: number for number in range(len(names))})
    odd = next((row for row, value in enumerate(values) if value not in index), None)
    if odd is not None:
        what = "is not labelled" if values[odd] in (None, -1) else f"has label {values[odd]!r}"
        shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        where = f"row {odd} of {files[0]}"
        raise DataError(f"dataset 'parquet': {where} {what}; expected one of {len(names)} classes: {shown}")
    return np.array([index[value] for value in values], dtype=np.int64)


def read_images(files: list[Path]) -> Any:
    """The encoded images of all rows: an Arrow array of bytes."""
    array = _column(files, columns(files[0]).image)
    return array if not _is_struct(array) else _bytes_of(array)


def first_image(path: Path) -> Any:
    """The encoded image of the first row."""
    pa, pq = _arrow()
    image = columns(path).image
    try:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(batch_size=1, columns=[image]), None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"dataset 'parquet': cannot read column {image} of {path}: {error}") from None
    if batch is None or not len(batch):
        raise DataError(f"dataset 'parquet': {path} has no rows")
    value = batch.column(0)[0].as_py()
    return value["bytes"] if isinstance(value, dict) else value


def _column(files: list[Path], name: str) -> Any:
    pa, pq = _arrow()
    for path in files:
        columns(path)
    try:
        chunks = [c for path in files for c in pq.read_table(path, columns=[name]).column(name).chunks]
        return pa.chunked_array(chunks, type=None if chunks else pa.null())
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"dataset 'parquet': cannot read column {name} of {files[0].parent}: {error}"
        ) from None


def _is_struct(array: Any) -> bool:
    return bool(_arrow()[0].types.is_struct(array.type))


def _bytes_of(array: Any) -> Any:
    return _arrow()[0].chunked_array([chunk.field("bytes") for chunk in array.chunks])
