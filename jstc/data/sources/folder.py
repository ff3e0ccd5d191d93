"""Image trees: `train/<class>/*.jpg` and `val/<class>/*.jpg`, or `<class>/*.jpg` alone. No torch here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jstc.core import files
from jstc.data.base import DataInfo, Source, photographs
from jstc.data.images import Encoded, Images, endings
from jstc.data.looks import (
    HEADS,
    LOOKED_AT,
    SHOWN,
    Seen,
    left_out_note,
    look_at,
    notes_on,
    set_aside_note,
    unread_note,
)
from jstc.data.sampling import PackedStrings, scattered, set_aside, spread
from jstc.errors import DamagedError, DataError
from jstc.recipe.schema import InputSettings

__all__ = ["TEST_NAMES", "TRAIN_NAMES", "WHERE", "check", "image_files", "load"]

WHERE = "a folder with train/<class>/*.jpg and val/<class>/*.jpg (or <class>/*.jpg alone)"
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")
"""Test before validation: nothing is chosen by either here, and a test split is meant for just that."""
# Beside images on disks that were formatted for, or filled by, Windows, macOS and network drives.
_NO_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})
_NO_FOLDERS = frozenset({"__macosx", "@eadir"})
_MOST_COMPARED = 2**24  # bytes of two files


def check(name: str, root: Path, settings: InputSettings) -> DataInfo:
    """Find what is wrong with an image tree: by its folders, and by a sample of the images of each split.

    Raises `DataError`.
    """
    return _looked_into(name, root, settings)[0]


def load(name: str, root: Path, settings: InputSettings) -> Source:
    """An image tree, whose images are decoded as they are needed."""
    info, tree = _looked_into(name, root, settings)
    train = tree.train.images()
    if tree.test is not None:
        return Source(info, train, tree.test.images())
    rest, test = set_aside(train.labels, settings.test_fraction)
    return Source(info, train.picked(rest), train.picked(test))


def _looked_into(name: str, root: Path, settings: InputSettings) -> tuple[DataInfo, _Tree]:
    try:
        tree = _tree(name, root)
        seen = [_look_at(name, split, folder, settings) for split, folder in tree.splits()]
        notes = [*_notes(tree, settings), *notes_on(seen, settings)]
    except OSError as error:  # a folder that may not be looked into, a share that is gone
        raise DataError(f"dataset '{name}': cannot look into {root}: {error}") from None
    sizes = [size for each in seen for size in each.sizes]
    return photographs(name, tree.train.classes, sizes, settings, notes=notes), tree


# What there is: the folders of splits and classes, and their files.


class _Folder(NamedTuple):
    """A folder with one folder for each class: the paths of each one's images, and what else lies there."""

    path: Path
    classes: tuple[str, ...]
    files: list[list[str]]
    left_out: Counter[str]

    @property
    def num_images(self) -> int:
        """Number of images."""
        return sum(map(len, self.files))

    def images(self) -> Images:
        """The images in torchvision's order: by class, by folder, by name."""
        paths = PackedStrings.pack([os.fsencode(path) for images in self.files for path in images])
        labels = np.repeat(np.arange(len(self.files), dtype=np.int64), [len(images) for images in self.files])
        return Images(partial(_read, paths), labels)


class _Tree(NamedTuple):
    """Folders of the training and the test split; without the latter some of the images become it.

    `unread` are the folders beside them.
    """

    train: _Folder
    test: _Folder | None
    unread: list[str]

    def splits(self) -> list[tuple[str, _Folder]]:
        """Both splits with a word for each; without a test split all images."""
        if self.test is None:
            return [("", self.train)]
        return [("training", self.train), ("test", self.test)]


def _read(paths: PackedStrings, index: int) -> Encoded:
    path = os.fsdecode(paths[index])
    return Encoded(Path(path), path)


def _tree(name: str, root: Path) -> _Tree:
    train, test = _split_folders(name, root)
    classes = _classes(name, train)
    advice = f"without {test} a share of the training images is set aside for the test"
    if test is not None and classes != (others := _classes(name, test, advice)):
        raise DataError(f"dataset '{name}': {_difference(train, test, classes, others)}")
    _require_several(name, train, classes)
    if train == root:
        _require_no_splits(name, root, classes)
    unread = [] if train == root else [f"{p.name}/" for p in _folders(root) if p not in (train, test)]
    listed = _listed(name, train, classes)
    return _Tree(listed, None if test is None else _listed(name, test, classes), unread)


def _split_folders(name: str, root: Path) -> tuple[Path, Path | None]:
    """The folders of training and test; `root` itself where there is neither, with folders of classes."""
    folders = {path.name.lower(): path for path in _folders(root)}
    train = next((folders[each] for each in TRAIN_NAMES if each in folders), None)
    tests = [folders[each] for each in TEST_NAMES if each in folders]
    # ImageNet's test/ has no labels: of several the first with the classes is taken.
    classes = [] if train is None else _names(train)
    test = next((one for one in tests if _names(one) == classes), tests[0] if tests else None)
    if train is not None and (test is not None or len(folders) == 1):
        return train, test
    if train is None and test is None and folders:
        return root, None
    missing = "train/" if train is None else "test/, val/ or validation/"
    found = ", ".join(f"{path.name}/" for path in list(folders.values())[:SHOWN])
    has = f"has no {missing}, but {found}" if found else "has no folders"
    raise DataError(f"dataset '{name}': {root} {has}; expected {WHERE}")


def _folders(folder: Path) -> list[Path]:
    """Folders that may stand for splits or classes; a link to where it stands, or above, is none."""
    found = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    above = _here_and_above(folder)
    return sorted(p for p in found if not _is_hidden_folder(p.name) and not _leads_back(p, above))


def _here_and_above(folder: Path) -> tuple[str, ...]:
    here = os.path.realpath(folder)
    return here, *map(str, Path(here).parents)


def _names(folder: Path) -> list[str]:
    return [path.name for path in _folders(folder)]


def _classes(name: str, folder: Path, advice: str = "") -> tuple[str, ...]:
    classes = tuple(_names(folder))
    if not classes:
        loose = " (images must lie in one folder per class)" if image_files(folder) else ""
        raise DataError(f"dataset '{name}': {folder} has no class folders{loose}; expected {WHERE}", advice)
    return classes


def _difference(train: Path, test: Path, classes: Sequence[str], others: Sequence[str]) -> str:
    text = []
    for folder, missing in ((test, set(classes) - set(others)), (train, set(others) - set(classes))):
        if missing:
            more = " ..." if len(missing) > SHOWN else ""
            shown = ", ".join(sorted(missing)[:SHOWN])
            text.append(f"{folder} lacks {len(missing)} of the classes: {shown}{more}")
    return "; ".join(text) + "; both must have the same class folders"


def _require_several(name: str, folder: Path, classes: Sequence[str]) -> None:
    """Raise `DataError` for a single class; the folders are often one level off."""
    if len(classes) > 1:
        return
    only = folder / classes[0]
    below = _names(only)
    advice = f"each class needs a folder in {folder}: is the level of the folders one off?"
    if {*TRAIN_NAMES, *TEST_NAMES} & {each.lower() for each in below}:
        advice = f"its folders are splits: give --data {only}"
    elif len(below) > 1:
        advice = f"{only} has the folders {', '.join(below[:SHOWN])}: if these are the classes, move them up"
    raise DataError(
        f"dataset '{name}': {folder} has one class folder, {classes[0]}, so there is nothing to tell apart",
        advice,
    )


def _require_no_splits(name: str, root: Path, classes: Sequence[str]) -> None:
    """Raise `DataError` where what were to be class folders all hold the same folders, and no images."""
    inside = [{path.name for path in _folders(root / label)} for label in classes]
    same = sorted(inside[0])
    if len(same) < 2 or any(each != inside[0] for each in inside):
        return
    if not any(_is_image(entry.name) for label in classes for entry in os.scandir(root / label)):
        raise DataError(
            f"dataset '{name}': {', '.join(classes[:SHOWN])} in {root} all have the folders "
            f"{', '.join(same[:SHOWN])}: they seem to be splits, not classes",
            f"call them train and val; expected {WHERE}",
        )


def _listed(name: str, folder: Path, classes: tuple[str, ...]) -> _Folder:
    left_out: Counter[str] = Counter()
    found = [image_files(folder / label, left_out) for label in classes]
    empty = [label for label, images in zip(classes, found, strict=True) if not images]
    if empty:
        more = " ..." if len(empty) > SHOWN else ""
        folders = "1 class folder" if len(empty) == 1 else f"{len(empty)} class folders"
        others = left_out_note(left_out)
        raise DataError(
            f"dataset '{name}': {folders} in {folder} without images: {', '.join(empty[:SHOWN])}{more}; "
            f"images end in {', '.join(endings())}" + (f"; {others}" if others else "")
        )
    return _Folder(folder, classes, found, left_out)


def image_files(folder: Path, left_out: Counter[str] | None = None) -> list[str]:
    """Paths of the images in a folder and below it, by folder and name, through links but not in a circle.

    Hidden ones are passed over. `left_out` counts other files by how their names end. Raises `OSError`.
    """
    found: list[tuple[str, list[str]]] = []
    above: dict[str, tuple[str, ...]] = {}
    outer = _here_and_above(folder)
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        images = [name for name in names if _is_image(name)]
        found.append((place, sorted(images)))
        if left_out is not None and len(images) < len(names):
            others = (name for name in names if not _is_image(name) and not _is_hidden(name))
            left_out.update(_ending(name) for name in others)
        chain = (*above.pop(place, outer), os.path.realpath(place))
        folders[:] = [each for each in folders if not _is_hidden_folder(each)]
        folders[:] = [each for each in folders if not _leads_back(Path(place, each), chain)]
        above |= {f"{place}{os.sep}{each}": chain for each in folders}
    return [f"{place}{os.sep}{name}" for place, names in sorted(found) for name in names]


def _raise(error: OSError) -> None:
    raise error


def _leads_back(path: Path, chain: tuple[str, ...]) -> bool:
    return path.is_symlink() and os.path.realpath(path) in chain


def _ending(name: str) -> str:
    return name[name.rindex(".") :].lower() if "." in name else ""


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NO_FILES


def _is_hidden_folder(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NO_FOLDERS


def _is_image(name: str) -> bool:
    return name.lower().endswith(endings()) and not name.startswith(".")


# A look at the tree before the run: what is odd about it, and images that can be read.


def _look_at(name: str, split: str, folder: _Folder, settings: InputSettings) -> Seen:
    """Look at some images of each class, or of classes spread over all. Raises `DataError`."""
    looked = [folder.files[i] for i in spread(len(folder.files), LOOKED_AT)]
    counts = _shared_out(LOOKED_AT, [len(paths) for paths in looked])
    paths = [path for k, each in enumerate(looked) for path in _some(each, counts[k], k)]
    heads = [each for paths in looked for each in paths]
    heads = [heads[i] for i in scattered(len(heads), HEADS)]
    return look_at(
        name, split, _reads(paths), heads=_reads(heads), images=folder.num_images, settings=settings
    )


def _shared_out(total: int, sizes: Sequence[int]) -> list[int]:
    """As many of each as of any other, `total` of all; of small ones all, and more of the others."""
    counts, left = [0] * len(sizes), min(total, sum(sizes))
    while left:
        for k, size in enumerate(sizes):
            if left and counts[k] < size:
                counts[k] += 1
                left -= 1
    return counts


def _some(paths: list[str], count: int, number: int) -> list[str]:
    return [paths[i] for i in scattered(len(paths), count, seed=number)]


def _reads(paths: Iterable[str]) -> list[Callable[[], Encoded]]:
    return [partial(Encoded, Path(path), path) for path in paths]


def _notes(tree: _Tree, settings: InputSettings) -> Iterator[str]:
    left_out: Counter[str] = sum((folder.left_out for _, folder in tree.splits()), Counter())
    if others := left_out_note(left_out):
        yield others
    if unread := unread_note(tree.unread):
        yield unread
    train, test = tree.train, tree.test
    if test is None:
        yield set_aside_note(settings)
        return
    if train.path.samefile(test.path):
        yield f"{test.path} and {train.path} are one folder: the test images are the training images"
        return
    if test.num_images > train.num_images:
        yield (
            f"{test.path} has more images ({test.num_images:,}) than {train.path} ({train.num_images:,}): "
            "are the two the wrong way round?"
        )
    yield from _in_both(train, test)


def _in_both(train: _Folder, test: _Folder) -> Iterator[str]:
    paths = [path for paths in test.files for path in paths]
    looked = [Path(paths[i]) for i in scattered(len(paths), HEADS)]
    same = [path for path in looked if _is_same(path, train.path / path.relative_to(test.path))]
    if same:
        yield (
            f"{len(same)} of {len(looked)} test images looked at are in {train.path} as well, such as "
            f"{same[0].relative_to(test.path)}: an accuracy on images that were trained on says little"
        )


def _is_same(path: Path, other: Path) -> bool:
    """Are both files of the same bytes? Files of another size are not read."""
    try:
        if path.stat().st_size != other.stat().st_size:
            return False
        with files.open_regular(path) as one, files.open_regular(other) as two:
            return one.read(_MOST_COMPARED) == two.read(_MOST_COMPARED)
    except (OSError, DamagedError):
        return False
