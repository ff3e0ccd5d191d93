"""Image trees: `train/<class>/*.jpg` and `val/<class>/*.jpg`. No torch at import."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from jstc.data.folder_sample import SUFFIXES, image_files, sample_tree
from jstc.data.images import open_file
from jstc.data.info import IMAGENET_MEAN, IMAGENET_STD, DataInfo, Dataset, resize_side
from jstc.data.names import Names
from jstc.errors import DataError
from jstc.recipe import InputSettings
from jstc.torchvision_import import import_torchvision

if TYPE_CHECKING:
    import torch

    from jstc.data.decoding import Images

__all__ = ["WHERE", "check", "load"]

WHERE = "a folder with train/<class>/*.jpg and val/<class>/*.jpg (or validation/, test/)"
_TEST_FOLDERS = ("val", "validation", "test")
_SIDE = 224
_SHOWN = 3


def check(name: str, root: Path, settings: InputSettings) -> DataInfo:
    """Find what is wrong with an image tree: by its folders, and by a sample of the images of each split.

    Raises `DataError`.
    """
    try:
        classes = _checked(name, root, settings)
    except OSError as error:  # a folder that may not be looked into, a share that is gone
        raise DataError(f"dataset '{name}': cannot look into {root}: {error}") from None
    side = settings.image_size or _SIDE
    crop_of = resize_side(side, side)
    return DataInfo(name, tuple(classes), 3, side, side, IMAGENET_MEAN, IMAGENET_STD, crop_of)


def _checked(name: str, root: Path, settings: InputSettings) -> list[str]:
    train, test = _split_folders(name, root)
    classes, others = _classes(name, train), _classes(name, test)
    if classes != others:
        raise DataError(f"dataset '{name}': {_difference(train, test, classes, others)}")
    for folder in (train, test):
        sample_tree(name, folder, classes, max_corrupt=settings.max_corrupt)
    return classes


def load(name: str, root: Path, settings: InputSettings, *, seed: int, device: torch.device) -> Dataset:
    """An image tree whose images are decoded as they are needed."""
    from jstc.data.loader import dataset_from_images

    info = check(name, root, settings)
    train, test = (_images(folder, info.labels) for folder in _split_folders(name, root))
    return dataset_from_images(info, train, test, settings=settings, seed=seed, device=device)


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
    from jstc.data.decoding import Images

    datasets = import_torchvision("torchvision.datasets")
    index = {label: number for number, label in enumerate(labels)}
    samples = datasets.ImageFolder.make_dataset(str(folder), index, SUFFIXES)
    paths = Names.pack([os.fsencode(path) for path, _ in samples])
    return Images(partial(_read, paths), np.array([label for _, label in samples], dtype=np.int64))


def _read(paths: Names, index: int) -> Image.Image:
    return open_file(Path(os.fsdecode(paths[index])))
