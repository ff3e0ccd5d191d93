"""The names of datasets, and what is wrong with one before it is loaded. No torch here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jstc.core.preprocessing import Preprocessing
from jstc.data.base import GIVEN, DataInfo, Dataset, Source
from jstc.data.sources import cifar, digits, folder, hub, parquet, webdataset
from jstc.errors import DataError, InputError, UnknownNameError
from jstc.recipe.schema import InputSettings

if TYPE_CHECKING:
    import torch

__all__ = ["CatalogueEntry", "catalogue", "check", "check_root", "load", "refuse_idle_root"]


@dataclass(frozen=True)
class CatalogueEntry:
    """One line of `jstc datasets`; `where` says what the data folder must hold."""

    name: str
    description: str
    needs_root: bool
    where: str


_ENTRIES = (
    CatalogueEntry("digits", "1,797 handwritten digits, 10 classes, shown at 32x32", False, "embedded"),
    CatalogueEntry("cifar10", "60,000 photographs at 32x32, 10 classes", True, cifar.WHERE["cifar10"]),
    CatalogueEntry("cifar100", "60,000 photographs at 32x32, 100 classes", True, cifar.WHERE["cifar100"]),
    CatalogueEntry("imagenet", "ImageNet-1k, 1,000 classes", True, folder.WHERE),
    CatalogueEntry("imagefolder", "your own images, one folder per class", True, folder.WHERE),
    CatalogueEntry("parquet", "your own images, as Hugging Face stores them", True, parquet.WHERE),
    CatalogueEntry("webdataset", "your own images in tar files", True, webdataset.WHERE),
    CatalogueEntry("hf:ORG/NAME", "a data set of the Hugging Face Hub, or its forms", False, hub.WHERE),
)


def catalogue() -> list[CatalogueEntry]:
    """Every dataset that can be named."""
    return list(_ENTRIES)


def check(name: str, *, root: Path | None, settings: InputSettings | None = None) -> DataInfo:
    """Find what is wrong with a dataset, cheaply, and return its form.

    Raises `UnknownNameError` or `DataError`, with what would be right.
    """
    info = _form(name, root, settings or InputSettings())
    if info.num_classes < 2:
        count = f"{info.num_classes} class{'es' * (info.num_classes != 1)}"
        raise DataError(f"dataset '{name}' has {count}: there is nothing to tell apart")
    return info


def _form(name: str, root: Path | None, settings: InputSettings) -> DataInfo:
    folder_or_none = check_root(name, root)
    if name.startswith(hub.PREFIX):
        return hub.check(name, settings)
    if folder_or_none is None:
        return digits.describe(settings)
    if name in cifar.WHERE:
        return cifar.check(name, folder_or_none, settings)
    if name == "parquet":
        return parquet.check(folder_or_none, settings)
    if name == "webdataset":
        return webdataset.check(folder_or_none, settings)
    return folder.check(name, folder_or_none, settings)


def check_root(name: str, root: Path | None) -> Path | None:
    """The data folder (or pattern) of a known dataset, None where it needs none. Raises as `check` does."""
    if name.startswith(hub.PREFIX):
        return None
    if name == GIVEN:
        raise DataError(
            "dataset 'given' stands for data that were given from Python, which are not to be had here",
            "go on there with jstc.search, or name a data set",
        )
    entry = next((e for e in _ENTRIES if e.name == name), None)
    if entry is None:
        names = [e.name for e in _ENTRIES]
        raise UnknownNameError("dataset", name, names, f"(known: {', '.join(names)})")
    if not entry.needs_root:
        return None
    if root is None:
        raise DataError(
            f"dataset '{name}' needs a data folder: --data DIR (or data: in the recipe), {entry.where}"
        )
    _refuse_url(name, root)
    if not root.is_dir() and name != "webdataset":  # which has patterns, too
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"dataset '{name}': {root} {what}; expected {entry.where}")
    return root


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one slash: a path keeps no more; one letter: a drive


def _refuse_url(name: str, root: Path) -> None:
    text = root.as_posix()
    if _URL.match(text):
        raise DataError(
            f"dataset '{name}': {text.replace(':/', '://', 1)} is an address on a server, and jstc reads the "
            "disks of this machine; copy the files first, for example with 'wget -c' or the sync command of "
            "your cloud, and give their folder"
        )


def refuse_idle_root(name: str, root: Path | None) -> None:
    """Raise `InputError` for a folder that would have no effect: it was meant otherwise.

    Raises as `check_root` does as well.
    """
    if root is not None and check_root(name, root) is None:
        why = "is found by its name" if name.startswith(hub.PREFIX) else "comes with jstc"
        raise InputError(f"--data {root}: dataset '{name}' {why}; leave it out, or take another dataset")


# Loading a dataset by name. Torch loads with the first one.


def load(
    name: str,
    *,
    root: Path | None,
    settings: InputSettings,
    seed: int,
    device: torch.device,
    say: Callable[[str], None] = lambda _: None,
    preprocessing: Preprocessing | None = None,
) -> Dataset:
    """Load a dataset; its batches arrive on `device`. `say` hears of what takes long.

    Images are prepared as `preprocessing` says; None: as `check` does.
    `seed` decides which share of the training split is kept for search-validation, and nothing else.
    Raises `UnknownNameError` or `DataError`, as `check` does.
    """
    from jstc.data.loader import dataset_of  # with torch

    source = _source(name, root, settings, say)
    if preprocessing is not None:
        source = replace(source, info=source.info.prepared_as(preprocessing))
    return dataset_of(source, settings=settings, seed=seed, device=device)


def _source(name: str, root: Path | None, settings: InputSettings, say: Callable[[str], None]) -> Source:
    folder_or_none = check_root(name, root)
    if name.startswith(hub.PREFIX):
        return hub.load(name, settings)
    if folder_or_none is None:
        return digits.load(settings)
    if name in cifar.WHERE:
        return cifar.load(name, folder_or_none, settings)
    if name == "parquet":
        return parquet.load(folder_or_none, settings)
    if name == "webdataset":
        return webdataset.load(folder_or_none, settings, say=say)
    return folder.load(name, folder_or_none, settings)
