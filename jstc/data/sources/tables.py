"""Tables of encoded images with a label in each row: what parquet files and the Hub's data sets share.

Small images (up to 96 pixels, 1 GiB decoded) are decoded once, into memory, and augmented by shifts and
mirroring; others stay as they are stored, and are decoded, randomly cropped and mirrored as they are needed.
No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from jstc.data.base import DataInfo, photographs, size_of
from jstc.data.images import Images
from jstc.data.looks import LOOKED_AT, Seen, look_at, notes_on
from jstc.data.sampling import Indices, scattered
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = [
    "IMAGE_NAMES",
    "LABEL_NAMES",
    "class_names",
    "class_numbers",
    "described",
    "is_unlabelled",
    "look_into",
    "renumbered",
]

IMAGE_NAMES = ("image", "img")
LABEL_NAMES = ("label", "labels", "fine_label")
"""Columns by these names are taken, the first that there is, unless the recipe names others."""
_MAX_CLASSES = 1_000_000
_DECODED_BYTES = 2**30
_SHOWN = 3


def class_names(name: str, values: Sequence[Any], where: str) -> tuple[str, ...]:
    """Class names in label order where nothing but the labels tells them: texts sorted, or 0, 1, 2 ..."""
    if any(isinstance(value, str) for value in values):
        return tuple(sorted({str(value) for value in values if value is not None}))
    most = max((int(value) for value in values if value is not None), default=-1)
    if not 0 <= most < _MAX_CLASSES:
        raise DataError(f"dataset '{name}': the greatest label in {where} is {most}; expected 0, 1, 2 ...")
    return tuple(map(str, range(most + 1)))


def class_numbers(name: str, values: Sequence[Any], names: Sequence[str], where: str) -> Indices:
    """Labels int64 [N] as indices into `names`. Raises `DataError` for a label that is not one."""
    if not len(values):
        raise DataError(f"dataset '{name}': {where} has no rows")
    index: dict[Any, int] = {each: number for number, each in enumerate(names)}
    index.update({number: number for number in range(len(names))})
    odd = next((row for row, value in enumerate(values) if value not in index), None)
    if odd is not None:
        what = "is not labelled" if values[odd] in (None, -1) else f"has label {values[odd]!r}"
        shown = ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
        raise DataError(
            f"dataset '{name}': row {odd} of {where} {what}; expected one of {len(names)} classes: {shown}"
        )
    return np.array([index[value] for value in values], dtype=np.int64)


def renumbered(values: Sequence[Any], own: Sequence[str], names: Sequence[str]) -> list[Any]:
    """Numbers of the classes `own` of a split as those of the classes `names` of the training split.

    A class that is not there keeps its name, which `class_numbers` refuses.
    """
    if not own or not names or tuple(own) == tuple(names):
        return list(values)
    numbers: dict[int, Any] = dict(enumerate(own))
    numbers |= {number: names.index(each) for number, each in enumerate(own) if each in names}
    return [numbers.get(value, value) for value in values]


def is_unlabelled(values: Sequence[Any]) -> bool:
    """Has no row a label, as in test splits of competitions?"""
    return all(value in (None, -1) for value in values)


def look_into(name: str, split: str, images: Images, settings: InputSettings) -> Seen:
    """A look at some images of a split, wherever they stand in it. Raises `DataError`."""
    count = len(images.labels)
    reads = [partial(images.read, int(row)) for row in scattered(count, LOOKED_AT)]
    return look_at(name, split, reads, images=count, settings=settings)


def described(
    name: str,
    labels: Sequence[str],
    seen: Sequence[Seen],
    settings: InputSettings,
    *,
    images: int,
    notes: Iterable[str] = (),
) -> tuple[DataInfo, tuple[int, int] | None]:
    """The form of a data set of so many images by a look at some, and the size at which they fit in memory.

    None for the latter where they are to be decoded as they are needed.
    """
    sizes = [size for each in seen for size in each.sizes]
    height, width, by = size_of(sizes, None)
    info = photographs(name, labels, sizes, settings, notes=(*notes, *notes_on(seen, settings)))
    if by == "images" and images * 3 * height * width <= _DECODED_BYTES:
        return replace(info, resize_side=None), (height, width)
    return info, None
