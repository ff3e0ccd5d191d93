"""Images in parquet files, as Hugging Face stores them. No torch at import.

`train.parquet` and `test.parquet` (or `validation`, `val`), or the shards `train-00000-of-00005*.parquet`,
in the folder or in `data/` below it. Small images (up to 96 pixels, 1 GiB decoded) are decoded once, into
memory, and augmented by shifts and mirroring; others stay encoded in memory, and are decoded, randomly
cropped and mirrored as they are needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from jstc.data.corrupt import CorruptImages
from jstc.data.images import open_bytes
from jstc.data.info import IMAGENET_MEAN, IMAGENET_STD, DataInfo, Dataset, resize_side
from jstc.data.parquet_files import (
    WHERE,
    find,
    first_image,
    has_files,
    label_names,
    read_images,
    read_labels,
)
from jstc.errors import DataError
from jstc.recipe import InputSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from jstc.data.decoding import Images

__all__ = ["WHERE", "check", "decode", "has_files", "load"]

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


def load(root: Path, settings: InputSettings, *, seed: int, device: torch.device) -> Dataset:
    """Decode small images into memory; keep others encoded there."""
    from jstc.data.loader import dataset_from_images
    from jstc.data.memory import Augmentation, dataset_in_memory

    info = check(root, settings)
    size = _own_size(find(root, "train"))
    if size is None or not _in_memory(root, info.labels, size):
        train, test = (_encoded(root, part, info.labels) for part in ("train", "test"))
        return dataset_from_images(info, train, test, settings=settings, seed=seed, device=device)
    corrupt = CorruptImages(settings.max_corrupt)
    train_arrays, test_arrays = (
        decode(root, part, info.labels, size=size, workers=settings.workers, corrupt=corrupt)
        for part in ("train", "test")
    )
    return dataset_in_memory(
        info,
        train_arrays,
        test_arrays,
        augmentation=Augmentation.wanted(settings, info, side=min(size), flip=True),
        val_fraction=settings.val_fraction,
        seed=seed,
        device=device,
        corrupt=corrupt,
    )


def decode(
    root: Path,
    split: str,
    labels: tuple[str, ...],
    *,
    size: tuple[int, int],
    workers: int,
    corrupt: CorruptImages,
) -> tuple[Tensor, Tensor]:
    """All images of a split that can be read, uint8 [N, 3, *size], and their labels, int64 [N]."""
    from jstc.data.decoding import decode_all

    return decode_all(_encoded(root, split, labels), size=size, workers=workers, corrupt=corrupt)


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


def _encoded(root: Path, split: str, labels: tuple[str, ...]) -> Images:
    from jstc.data.decoding import Images

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
