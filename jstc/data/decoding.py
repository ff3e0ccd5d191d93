"""Images read and decoded by worker processes."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jstc.core import processes, signals, worker
from jstc.core.preprocessing import Colour, Preprocessing
from jstc.data.images import CorruptImages, Images, UnreadableImageError
from jstc.data.pixels import prepared_pixels
from jstc.data.sampling import Indices
from jstc.errors import DataError, WorkerError

__all__ = ["decode_all", "in_workers", "original_batches"]

_CHUNK = 500
_ORIGINALS = 16  # photographs of 12 million pixels are 36 MB each

_Item = TypeVar("_Item")


def in_workers(
    items: Dataset[Any],
    requests: Iterable[Any],
    *,
    workers: int,
    prefetch: int | None = None,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """What `items.__getitems__` makes of each request, in order; by `workers` processes, or none.

    `prefetch` answers are kept ready by each of them. Raises a worker's `DataError` as its own, and
    `WorkerError` when one has died. Signals to the whole group of processes are left to this one.
    """
    workers = min(workers, processes.usable_cores())  # with more of them the loader would warn
    # A generator of its own: without one, a loader takes a number from torch's global random state.
    loader: DataLoader[Any] = DataLoader(
        _Answers(items),
        batch_sampler=requests,  # one request is a batch
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        collate_fn=_as_it_is,
        worker_init_fn=_settle_in,
        generator=torch.Generator(),
    )
    others = multiprocessing.active_children()
    with worker.starting():
        answers = iter(loader)
    started = [each for each in multiprocessing.active_children() if each not in others]
    try:
        for answer in answers:
            if isinstance(answer, DataError):
                raise answer
            yield answer
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        ended_by = next((-each.exitcode for each in started if each.exitcode), 0)
        worker.await_own(-ended_by)
        raise _death(error, workers, ended_by) from error


def _death(error: RuntimeError, workers: int, ended_by: int) -> WorkerError:
    """An error that tells of a worker's death by the signal `ended_by`, 0 where that is not known."""
    if ended_by in signals.ENDING:
        text = f"a decoding process was ended from outside, by {signal.Signals(ended_by).name}"
        return WorkerError(f"{text}; what was finished is saved, and the same command continues")
    return WorkerError(
        f"a decoding process has died, for want of memory perhaps (also shared memory, in a container): "
        f"try a lower input.workers, now {workers}. {' '.join(str(error).split())}"
    )


class _Answers(Dataset[Any]):
    """What `items` gives; a `DataError` as well, which torch would pass on from a worker as mere text."""

    def __init__(self, items: Dataset[Any]) -> None:
        self.items = items

    def __getitems__(self, request: Any) -> Any:
        try:
            return self.items.__getitems__(request)  # type: ignore[attr-defined]
        except DataError as error:
            return error


def _as_it_is(answer: Any) -> Any:
    return answer


def _settle_in(_worker: int) -> None:
    worker.serve()
    # Pillow's remarks, such as on EXIF data that nobody reads, would tear the progress bar.
    warnings.filterwarnings("ignore", module="PIL")


def decode_all(
    images: Images, to: Preprocessing, *, workers: int, corrupt: CorruptImages
) -> tuple[Tensor, Tensor]:
    """All images that can be read, uint8 [N, 3, to.height, to.width], and their labels, int64 [N].

    Those of another size are prepared as `to` says; those that cannot be read go to `corrupt`.
    Processes, because decoding a small image is mostly Python, which threads cannot share.
    """
    count = len(images.labels)
    pixels = torch.empty((count, 3, to.height, to.width), dtype=torch.uint8)
    kept: list[Indices] = []
    chunks = [np.arange(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    start = 0
    for part in in_workers(_Pixels(images, to), chunks, workers=min(workers, len(chunks) - 1)):
        corrupt.add(part.corrupt)
        pixels[start : start + len(part.pixels)] = part.pixels
        kept.append(part.indices)
        start += len(part.pixels)
    if not start:
        raise DataError(f"none of {count} images can be read: {next(iter(corrupt.found), '')}")
    return pixels[:start], torch.from_numpy(images.labels[np.concatenate(kept)])


class _Decoded(NamedTuple):
    pixels: Tensor
    indices: Indices
    corrupt: list[tuple[str, str]]


class _Pixels(Dataset[_Decoded]):
    """Images as bytes, many at a time."""

    def __init__(self, images: Images, to: Preprocessing) -> None:
        self.images = images
        self.to = to

    def __getitems__(self, indices: Indices) -> _Decoded:
        rows, good, corrupt = _each(indices, self._one)
        pixels = np.stack(rows) if rows else np.empty((0, self.to.height, self.to.width, 3), dtype=np.uint8)
        channels_first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        return _Decoded(torch.from_numpy(channels_first), np.array(good, dtype=np.int64), corrupt)

    def _one(self, index: int) -> NDArray[np.uint8]:
        to, image = self.to, self.images.read(index).rgb(self.to.background)
        return prepared_pixels(image, to.height, to.width, to.resize_side, to.interpolation)


def _each(
    indices: Indices, read: Callable[[int], _Item]
) -> tuple[list[_Item], list[int], list[tuple[str, str]]]:
    """Each image as `read` gives it, the indices of those that can be read, and the reasons of the others."""
    found, good, corrupt = [], [], []
    for index in indices.tolist():
        try:
            found.append(read(index))
            good.append(index)
        except UnreadableImageError as error:
            corrupt.append((error.where, error.reason))
    return found, good, corrupt


# Images as their files have them, for a network that prepares them itself.


def original_batches(
    images: Images,
    shares: Sequence[Indices],
    *,
    background: Colour | None,
    workers: int,
    corrupt: CorruptImages,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images uint8 [n, 3, H, W] and labels int64 [n] of each share, in order; a batch for each run of a size.

    Those that cannot be read go to `corrupt`.
    """
    parts = [share[at : at + _ORIGINALS] for share in shares for at in range(0, len(share), _ORIGINALS)]
    for answer in in_workers(_Originals(images, background), parts, workers=workers, prefetch=1):
        corrupt.add(answer.corrupt)
        labels = torch.from_numpy(images.labels[answer.indices])
        start = 0
        for _, same in itertools.groupby(answer.pixels, key=lambda image: image.shape):
            batch = torch.stack(list(same))
            yield batch, labels[start : start + len(batch)]
            start += len(batch)


class _Raw(NamedTuple):
    """Images uint8 [3, H, W] of any size, and those that could not be read."""

    pixels: list[Tensor]
    indices: Indices
    corrupt: list[tuple[str, str]]


class _Originals(Dataset[_Raw]):
    """Images as they are, some at a time."""

    def __init__(self, images: Images, background: Colour | None) -> None:
        self.images = images
        self.background = background

    def __getitems__(self, indices: Indices) -> _Raw:
        pixels, good, corrupt = _each(indices, self._one)
        return _Raw(pixels, np.array(good, dtype=np.int64), corrupt)

    def _one(self, index: int) -> Tensor:
        pixels = np.asarray(self.images.read(index).rgb(self.background))
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())
