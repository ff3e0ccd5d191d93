"""Reading and decoding images in worker processes."""

from __future__ import annotations

import contextlib
import io
import signal
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jstc.core import processes
from jstc.data.base import CorruptImages
from jstc.data.sampling import Indices
from jstc.errors import DataError, StageError

__all__ = ["Images", "UnreadableImageError", "decode_all", "in_workers", "open_bytes", "open_file"]

# Opening image files and bytes, with errors that name them. No torch here.

# What Pillow's decoders raise for damaged files, as fuzzing them shows, besides OSError and SyntaxError.
# MemoryError: a header that promises more pixels than there is memory.
_DAMAGE = (
    OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, EOFError,
    MemoryError, NotImplementedError, RuntimeError, AssertionError, struct.error, zlib.error,
    Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
# Pillow knows many more, and runs another program for some of them (PostScript).
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF", "DIB")
_MOST_ELONGATED = 100  # scaling the shorter side of anything longer to that of the network fills the memory


class UnreadableImageError(DataError):
    """An image that cannot be decoded: `where` it is, and why."""

    def __init__(self, where: str, reason: str, *, file: bool = False) -> None:
        super().__init__(f"cannot read {'image' if file else 'the image in'} {where}: {reason}")
        self.where = where
        self.reason = reason


def open_file(path: Path) -> Image.Image:
    """An image file as RGB. Raises `UnreadableImageError` when it cannot be decoded."""
    try:
        return _rgb(path)
    except _DAMAGE as error:
        raise UnreadableImageError(str(path), _reason(error), file=True) from None


def open_bytes(data: object, where: str) -> Image.Image:
    """An encoded image as RGB. Raises `UnreadableImageError`, which says `where`, for one that is none."""
    if data is None:
        raise UnreadableImageError(where, "no bytes")
    try:
        return _rgb(io.BytesIO(data))  # type: ignore[arg-type]
    except _DAMAGE as error:
        raise UnreadableImageError(where, _reason(error)) from None


def _rgb(source: Any) -> Image.Image:
    with _bombs_refused(), Image.open(source, formats=_FORMATS) as image:
        if max(image.size) > _MOST_ELONGATED * min(image.size):
            raise ValueError("{}x{} pixels, more than 100 to 1".format(*image.size))
        if image.mode != "RGB":  # grey, palette, CMYK ... Converting RGB would only copy it
            return image.convert("RGB")
        image.load()
        return image


@contextlib.contextmanager
def _bombs_refused() -> Iterator[None]:
    """Above 89 million pixels Pillow only warns, up to twice as many: half a gigabyte for an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _reason(error: BaseException) -> str:
    # Pillow's own text for foreign bytes names a Python object, which helps nobody
    text = " ".join(str(error).split())
    if "cannot identify image" in text:
        return "not an image"
    return text or type(error).__name__


_CHUNK = 500


@dataclass(frozen=True)
class Images:
    """Images that can be read one at a time, as RGB, and their labels int64 [N]."""

    read: Callable[[int], Image.Image]
    labels: Indices


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
    `StageError` when one has died.
    """
    workers = min(workers, processes.usable_cores())  # with more of them the loader would warn
    # A generator of its own: without one, a loader takes a number from torch's global random state.
    loader: DataLoader[Any] = DataLoader(
        items,
        batch_sampler=requests,  # one request is a batch
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        collate_fn=_as_it_is,
        worker_init_fn=_settle_in,
        generator=torch.Generator(),
    )
    try:
        yield from loader
    except DataError as error:
        raise DataError(_message(error)) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise StageError(
            f"a decoding process has died, for want of memory perhaps (also shared memory, in a container): "
            f"try a lower input.workers, now {workers}. {' '.join(str(error).split())}"
        ) from error


def _as_it_is(answer: Any) -> Any:
    return answer


def _settle_in(_worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the parent saves and then ends its workers. Its own
    # handlers, which a forked worker has inherited, are not for them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Pillow's remarks, such as on EXIF data that nobody reads, would tear the progress bar.
    warnings.filterwarnings("ignore", module="PIL")


def _message(error: DataError) -> str:
    # From a worker it arrives with the worker's traceback as its text; the message is the last line.
    last = (str(error).strip() or repr(error)).splitlines()[-1]
    return last.rpartition("DataError: ")[2]


def decode_all(
    images: Images, *, size: tuple[int, int], workers: int, corrupt: CorruptImages
) -> tuple[Tensor, Tensor]:
    """All images that can be read, uint8 [N, 3, *size], and their labels, int64 [N].

    Those of another size are scaled and cropped to the middle; those that cannot be read go to `corrupt`.
    Processes, because decoding a small image is mostly Python, which threads cannot share.
    """
    count = len(images.labels)
    pixels = torch.empty((count, 3, *size), dtype=torch.uint8)
    kept: list[Indices] = []
    chunks = [np.arange(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    start = 0
    for part in in_workers(_Pixels(images, size), chunks, workers=min(workers, len(chunks) - 1)):
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

    def __init__(self, images: Images, size: tuple[int, int]) -> None:
        self.images = images
        self.size = size

    def __getitems__(self, indices: Indices) -> _Decoded:
        rows, good, corrupt = [], [], []
        for index in indices.tolist():
            try:
                rows.append(self._one(index))
                good.append(index)
            except UnreadableImageError as error:
                corrupt.append((error.where, error.reason))
        pixels = np.stack(rows) if rows else np.empty((0, *self.size, 3), dtype=np.uint8)
        channels_first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        return _Decoded(torch.from_numpy(channels_first), np.array(good, dtype=np.int64), corrupt)

    def _one(self, index: int) -> NDArray[np.uint8]:
        height, width = self.size
        image = self.images.read(index)
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        return np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(height, width, 3)
