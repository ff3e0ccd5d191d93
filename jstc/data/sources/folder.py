"""Image trees: `train/<class>/*.jpg` and `val/<class>/*.jpg`. No torch here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from jstc.core.seeds import derive
from jstc.data.base import DataInfo, Source, photographs
from jstc.data.images import Images, UnreadableImageError, open_file, size_of_file
from jstc.data.sampling import PackedStrings, spread
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = ["SUFFIXES", "WHERE", "check", "image_files", "load", "require_readable", "sample_tree"]

WHERE = "a folder with train/<class>/*.jpg and val/<class>/*.jpg (or validation/, test/)"
_TEST_FOLDERS = ("val", "validation", "test")
_SHOWN = 3
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_SAMPLE = 32  # images of a split: a third of a second to decode
_SIZES = 64  # whose headers are read alone
_SHOWN_LEFT_OUT = 3


def check(name: str, root: Path, settings: InputSettings) -> DataInfo:
    """Find what is wrong with an image tree: by its folders, and by a sample of the images of each split.

    Raises `DataError`.
    """
    try:
        classes, sizes = _checked(name, root, settings)
    except OSError as error:  # a folder that may not be looked into, a share that is gone
        raise DataError(f"dataset '{name}': cannot look into {root}: {error}") from None
    return photographs(name, classes, sizes, settings)


def _checked(name: str, root: Path, settings: InputSettings) -> tuple[list[str], list[tuple[int, int]]]:
    train, test = _split_folders(name, root)
    classes, others = _classes(name, train), _classes(name, test)
    if classes != others:
        raise DataError(f"dataset '{name}': {_difference(train, test, classes, others)}")
    sizes = [
        size
        for folder in (train, test)
        for size in sample_tree(name, folder, classes, max_corrupt=settings.max_corrupt)
    ]
    return classes, sizes


def load(name: str, root: Path, settings: InputSettings) -> Source:
    """An image tree, whose images are decoded as they are needed."""
    info = check(name, root, settings)
    train, test = (_images(folder, info.labels) for folder in _split_folders(name, root))
    return Source(info, train, test)


def _split_folders(name: str, root: Path) -> tuple[Path, Path]:
    train = root / "train"
    test = next((root / n for n in _TEST_FOLDERS if (root / n).is_dir()), None)
    if train.is_dir() and test is not None:
        return train, test
    missing = "train/" if not train.is_dir() else "val/, validation/ or test/"
    found = ", ".join(sorted(f"{p.name}/" for p in _folders(root))[:_SHOWN]) or "no folders"
    raise DataError(f"dataset '{name}': {root} has no {missing}, but {found}; expected {WHERE}")


def _folders(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))]


def _classes(name: str, folder: Path) -> list[str]:
    classes = sorted(p.name for p in _folders(folder))
    if not classes:
        loose = " (images must lie in one folder per class)" if next(image_files(folder), None) else ""
        raise DataError(f"dataset '{name}': {folder} has no class folders{loose}; expected {WHERE}")
    return classes


def _difference(train: Path, test: Path, classes: list[str], others: list[str]) -> str:
    text = []
    for folder, missing in ((test, set(classes) - set(others)), (train, set(others) - set(classes))):
        if missing:
            more = " ..." if len(missing) > _SHOWN else ""
            shown = ", ".join(sorted(missing)[:_SHOWN])
            text.append(f"{folder} lacks {len(missing)} of the classes: {shown}{more}")
    return "; ".join(text) + "; both must have the same class folders"


def _images(folder: Path, labels: tuple[str, ...]) -> Images:
    # In torchvision's order: by class, by folder, by name.
    found = [sorted(image_files(folder / label), key=lambda p: (str(p.parent), p.name)) for label in labels]
    paths = PackedStrings.pack([os.fsencode(path) for images in found for path in images])
    counts = [len(images) for images in found]
    return Images(partial(_read, paths), np.repeat(np.arange(len(labels), dtype=np.int64), counts))


def _read(paths: PackedStrings, index: int) -> Image.Image:
    return open_file(Path(os.fsdecode(paths[index])))


# A look at the tree before the run: no empty classes, and images that can be read.


def sample_tree(
    name: str, folder: Path, classes: Sequence[str], *, max_corrupt: int
) -> list[tuple[int, int]]:
    """Look into every class folder, and at one image of each of some. Raises `DataError`.

    Gives height and width of these and of some more.
    """
    _require_images(name, folder, classes)
    looked_at = [classes[i] for i in spread(len(classes), _SAMPLE)]
    files = [sorted(image_files(folder / c)) for c in looked_at]
    sample = [paths[derive(0, "sample", k) % len(paths)] for k, paths in enumerate(files)]
    per_class = sum(len(paths) for paths in files) / len(files)
    reads = [partial(open_file, path) for path in sample]
    sizes = require_readable(name, reads, images=round(per_class * len(classes)), max_corrupt=max_corrupt)
    everything = [path for paths in files for path in paths]
    more = (_size(everything[i]) for i in spread(len(everything), _SIZES))
    return sizes + [size for size in more if size is not None]


def require_readable(
    name: str, sample: Sequence[Callable[[], Image.Image]], *, images: int, max_corrupt: int
) -> list[tuple[int, int]]:
    """Raise `DataError` when the sample says that more than `max_corrupt` of so many images are damaged.

    Each of the sample is a call that reads an image, and raises `UnreadableImageError` when it cannot. Gives
    height and width of the others.
    """
    found = [_read_or_error(read) for read in sample]
    damaged = [each for each in found if isinstance(each, UnreadableImageError)]
    too_many = len(damaged) * images > max_corrupt * len(sample)
    if len(damaged) > max_corrupt or (too_many and len(damaged) > 1):  # a single one may be chance
        shown = "; ".join(map(str, damaged[:_SHOWN_LEFT_OUT]))
        raise DataError(
            f"dataset '{name}': {len(damaged)} of {len(sample)} images looked at, out of about {images:,}, "
            f"are damaged, input.max_corrupt allows {max_corrupt}: {shown}"
        )
    return [(image.height, image.width) for image in found if isinstance(image, Image.Image)]


def image_files(folder: Path) -> Iterator[Path]:
    """Paths of the images in a folder and below it, through links too, but not in a circle."""
    above: dict[Path, tuple[Path, ...]] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        parent = Path(place)
        yield from (parent / n for n in names if n.lower().endswith(SUFFIXES))
        chain = (*above.pop(parent, ()), parent.resolve())
        folders[:] = [
            n for n in folders if not (parent / n).is_symlink() or (parent / n).resolve() not in chain
        ]
        above |= {parent / n: chain for n in folders}


def _require_images(name: str, folder: Path, classes: Sequence[str]) -> None:
    empty = [c for c in classes if next(image_files(folder / c), None) is None]
    if empty:
        more = " ..." if len(empty) > _SHOWN_LEFT_OUT else ""
        folders = "1 class folder" if len(empty) == 1 else f"{len(empty)} class folders"
        raise DataError(
            f"dataset '{name}': {folders} in {folder} without images: "
            f"{', '.join(empty[:_SHOWN_LEFT_OUT])}{more}; images end in {', '.join(SUFFIXES)}"
        )


def _read_or_error(read: Callable[[], Image.Image]) -> Image.Image | UnreadableImageError:
    try:
        return read()
    except UnreadableImageError as error:
        return error


def _size(path: Path) -> tuple[int, int] | None:
    try:
        return size_of_file(path)
    except UnreadableImageError:
        return None
