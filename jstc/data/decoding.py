"""Decoding images in worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jstc.data.sampling import Indices
from jstc.errors import DataError

__all__ = ["Images", "decode_all", "in_workers"]

_CHUNK = 500


@dataclass(frozen=True)
class Images:
    """Images that can be read one at a time, as RGB, and their labels int64 [N]."""

    read: Callable[[int], Image.Image]
    labels: Indices


def in_workers(
    items: Dataset[Any],
    batches: Iterable[list[Any]],
    *,
    workers: int,
    pin_memory: bool = False,
    collate: Callable[[Any], Any] | None = None,
) -> Iterator[Any]:
    """Batches of items by lists of keys, in order; `workers` processes, or none.

    Raises a worker's `DataError` as its own.
    """
    # A generator of its own: without one, a loader takes a number from torch's global random state.
    loader: DataLoader[Any] = DataLoader(
        items,
        batch_sampler=batches,
        num_workers=min(workers, _processors()),
        pin_memory=pin_memory,
        collate_fn=collate,
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except DataError as error:
        raise DataError(_message(error)) from None


def _processors() -> int:
    # More workers than this process may use would only make the loader warn.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _message(error: DataError) -> str:
    # From a worker it arrives with the worker's traceback as its text; the message is the last line.
    return str(error).strip().splitlines()[-1].rpartition("DataError: ")[2]


def decode_all(images: Images, *, size: tuple[int, int], workers: int) -> Tensor:
    """All images, uint8 [N, 3, *size]; those of another size are scaled and cropped to the middle.

    Processes, because decoding a small image is mostly Python, which threads cannot share.
    """
    count = len(images.labels)
    pixels = torch.empty((count, 3, *size), dtype=torch.uint8)
    keys = [list(range(start, min(start + _CHUNK, count))) for start in range(0, count, _CHUNK)]
    chunks = in_workers(_Pixels(images, size), keys, workers=min(workers, len(keys) - 1), collate=_stack)
    start = 0
    for chunk in chunks:
        pixels[start : start + len(chunk)] = chunk
        start += len(chunk)
    return pixels


class _Pixels(Dataset[NDArray[np.uint8]]):
    """Images as bytes [height, width, 3]."""

    def __init__(self, images: Images, size: tuple[int, int]) -> None:
        self.images = images
        self.size = size

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        height, width = self.size
        image = self.images.read(index)
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(height, width, 3)


def _stack(items: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(items).transpose(0, 3, 1, 2)))
