"""Columns of parquet files, read within bounds. No torch here.

A parquet file of some kilobytes can stand for gigabytes: pages are compressed, one value of a dictionary may
be meant by a million rows, and a run of equal values takes no space. So what a file says that it holds is
looked at before it is read, and what comes out is counted while it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jstc.core import files
from jstc.data.sampling import scattered
from jstc.data.sources.tables import IMAGE_NAMES, LABEL_NAMES
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = ["Columns", "columns", "metadata", "read_column", "some_images"]

# Encoded images hardly get smaller; texts and numbers do. What is beyond all of this is made to fill memory.
_SOUND_BYTES = 256 * 2**20
_SOUND_RATIO = 64  # bytes in memory for one of the files
_SOUND_ROWS = 2**22  # or as many as the files have bytes, if that is more
_PART = 4  # of what is allowed, at once
_IMAGES_AT_ONCE, _LABELS_AT_ONCE = 64, 2**16
_GROUPS = 4  # of rows, whose first images are looked at


@dataclass(frozen=True)
class Columns:
    """Names of the columns in use; `encoded` is where in the image column the bytes are."""

    image: str
    label: str
    encoded: str


def columns(path: Path, settings: InputSettings) -> Columns:
    """The image and label columns by the recipe and the schema. Raises `DataError` when one is missing."""
    schema = _schema(path)
    images = IMAGE_NAMES if settings.image_column is None else (settings.image_column,)
    labels = LABEL_NAMES if settings.label_column is None else (settings.label_column,)
    image, label = (next((n for n in names if n in schema.names), None) for names in (images, labels))
    if image is None or label is None:
        missing = " and ".join(n[0] for n, found in ((images, image), (labels, label)) if found is None)
        raise DataError(
            f"dataset 'parquet': {path} has no column {missing}; its columns: {schema.names}",
            "name yours by input.image_column and input.label_column",
        )
    _check_types(path, schema.field(image).type, schema.field(label).type)
    nested = _arrow()[0].types.is_struct(schema.field(image).type)
    return Columns(image, label, f"{image}.bytes" if nested else image)


def metadata(path: Path) -> dict[bytes, bytes]:
    """What the schema of a file carries besides its columns. Raises `DataError`."""
    return dict(_schema(path).metadata or {})


def some_images(paths: Sequence[Path], found: Columns, count: int) -> list[tuple[bytes | None, str]]:
    """Encoded images, about `count`, of the first rows of some row groups, and where each stands."""
    _, pq = _arrow()
    places: list[tuple[Path, int, int]] = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            rows = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        places += [(path, n, sum(rows[:n])) for n, size in enumerate(rows) if size]
    images: list[tuple[bytes | None, str]] = []
    chosen = [places[n] for n in scattered(len(places), _GROUPS)]
    for path, group, first in chosen:
        rows_of_each = -(-count // len(chosen))
        batch = next(_batches([path], found.encoded, rows=rows_of_each, group=group), None)
        values = [] if batch is None else batch.column(0).to_pylist()
        encoded = [value["bytes"] if isinstance(value, dict) else value for value in values]
        images += [(data, f"row {first + row} of {path}") for row, data in enumerate(encoded)]
    return images


def read_column(paths: Sequence[Path], name: str, *, images: bool = False) -> Any:
    """A column of `columns` in all files, as an Arrow array.

    Raises `DataError`, also for files that would take far more memory than they have bytes.
    """
    pa, _ = _arrow()
    rows = _IMAGES_AT_ONCE if images else _LABELS_AT_ONCE
    parts = [batch.column(0) for batch in _batches(paths, name, rows=rows)]
    _, dot, field = name.partition(".")
    if dot:
        parts = [part.field(field) for part in parts]
    return pa.chunked_array(parts, type=None if parts else pa.null())


def _arrow() -> tuple[Any, Any]:
    # Late, because it takes a fifth of a second, and other data sets have no use for it.
    import pyarrow
    import pyarrow.parquet

    return pyarrow, pyarrow.parquet


def _schema(path: Path) -> Any:
    pa, pq = _arrow()
    try:
        files.require_regular(path)
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


# Bounds: on what the files say of themselves, then on what they really hold.


def _batches(paths: Sequence[Path], name: str, *, rows: int, group: int | None = None) -> Iterator[Any]:
    """Record batches of one column of the files, one after another; of `rows` rows, or fewer large ones.

    With `group` of one group of rows alone.
    """
    pa, pq = _arrow()
    place = paths[0] if len(paths) == 1 else paths[0].parent
    try:
        largest = _declared(paths, name)
        at_once = max(1, min(rows, _limit(paths) // (_PART * max(largest, 1))))
        taken = 0
        for path in paths:
            with pq.ParquetFile(path) as file:
                groups = list(range(file.num_row_groups)) if group is None else [group]
                for batch in file.iter_batches(batch_size=at_once, columns=[name], row_groups=groups):
                    taken += batch.nbytes
                    _require_sound(paths, taken)
                    yield batch
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"dataset 'parquet': cannot read column {name} of {place}: {error}") from None


def _declared(paths: Sequence[Path], name: str) -> int:
    """Bytes of the column in the largest row group. Raises `DataError` when the files claim too much."""
    _, pq = _arrow()
    sizes, rows = [0], 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            found = file.metadata
        rows += found.num_rows
        for number in range(found.num_row_groups):
            group = found.row_group(number)
            parts = [group.column(column) for column in range(group.num_columns)]
            sizes.append(sum(part.total_uncompressed_size for part in parts if part.path_in_schema == name))
    _require_sound(paths, sum(sizes))
    if rows > max(_SOUND_ROWS, _bytes(paths)):
        raise _too_tight(paths, f"{rows:,} rows")
    return max(sizes)


def _require_sound(paths: Sequence[Path], size: int) -> None:
    if size > _limit(paths):
        raise _too_tight(paths, f"{size / 2**20:,.0f} MiB or more")
    memory = _memory()
    if memory is not None and size > memory / 2:
        raise DataError(
            f"dataset 'parquet': {paths[0].parent} holds {size / 2**30:.1f} GiB, too much for the "
            f"{memory / 2**30:.1f} GiB of memory here; unpack it into an image tree (dataset imagefolder)"
        )


def _too_tight(paths: Sequence[Path], held: str) -> DataError:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return DataError(
        f"dataset 'parquet': {paths[0]}{more} has {_bytes(paths) / 1e3:,.0f} kB and holds {held}: no images "
        "are stored so tightly, it may be made to fill the memory; unpack it elsewhere into an image tree"
    )


def _limit(paths: Sequence[Path]) -> int:
    return max(_SOUND_BYTES, _SOUND_RATIO * _bytes(paths))


def _bytes(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def _memory() -> int | None:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
