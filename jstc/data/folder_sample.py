"""A look at an image tree before the run: no empty classes, and images that can be read. No torch here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from jstc.data.images import UnreadableImageError, open_file
from jstc.data.sampling import seed_for, spread
from jstc.errors import DataError

__all__ = ["SUFFIXES", "image_files", "require_readable", "sample_tree"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_SAMPLE = 32  # images of a split: a third of a second to decode
_SHOWN = 3


def sample_tree(name: str, folder: Path, classes: Sequence[str], *, max_corrupt: int) -> None:
    """Look into every class folder, and at one image of each of some. Raises `DataError`."""
    _require_images(name, folder, classes)
    looked_at = [classes[i] for i in spread(len(classes), _SAMPLE)]
    files = [sorted(image_files(folder / c)) for c in looked_at]
    sample = [paths[seed_for(0, "sample", k) % len(paths)] for k, paths in enumerate(files)]
    per_class = sum(len(paths) for paths in files) / len(files)
    reads = [partial(open_file, path) for path in sample]
    require_readable(name, reads, images=round(per_class * len(classes)), max_corrupt=max_corrupt)


def require_readable(
    name: str, sample: Sequence[Callable[[], object]], *, images: int, max_corrupt: int
) -> None:
    """Raise `DataError` when the sample says that more than `max_corrupt` of so many images are damaged.

    Each of the sample is a call that reads an image, and raises `UnreadableImageError` when it cannot.
    """
    damaged = [error for error in map(_error, sample) if error is not None]
    too_many = len(damaged) * images > max_corrupt * len(sample)
    if len(damaged) > max_corrupt or (too_many and len(damaged) > 1):  # a single one may be chance
        shown = "; ".join(map(str, damaged[:_SHOWN]))
        raise DataError(
            f"dataset '{name}': {len(damaged)} of {len(sample)} images looked at, out of about {images:,}, "
            f"are damaged, input.max_corrupt allows {max_corrupt}: {shown}"
        )


def image_files(folder: Path) -> Iterator[Path]:
    """Paths of the images in a folder and below it."""
    for parent, _, names in os.walk(folder, followlinks=True):
        yield from (Path(parent) / n for n in names if n.lower().endswith(SUFFIXES))


def _require_images(name: str, folder: Path, classes: Sequence[str]) -> None:
    empty = [c for c in classes if next(image_files(folder / c), None) is None]
    if empty:
        more = " ..." if len(empty) > _SHOWN else ""
        folders = "1 class folder" if len(empty) == 1 else f"{len(empty)} class folders"
        raise DataError(
            f"dataset '{name}': {folders} in {folder} without images: "
            f"{', '.join(empty[:_SHOWN])}{more}; images end in {', '.join(SUFFIXES)}"
        )


def _error(read: Callable[[], object]) -> UnreadableImageError | None:
    try:
        read()
    except UnreadableImageError as error:
        return error
    return None
