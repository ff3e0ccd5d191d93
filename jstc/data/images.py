"""Images to be read: opened as RGB, or named with the reason why not, and counted. No torch here."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jstc.core import files
from jstc.core.files import require_held
from jstc.data.pixels import as_colours
from jstc.data.sampling import Indices
from jstc.errors import DataError

__all__ = [
    "CorruptImages",
    "Images",
    "Pixels",
    "UnreadableImageError",
    "corrupt_file",
    "open_bytes",
    "open_file",
    "size_of_file",
]


@dataclass(frozen=True)
class Images:
    """Images that can be read one at a time, as RGB, and their labels int64 [N]."""

    read: Callable[[int], Image.Image]
    labels: Indices


@dataclass(frozen=True)
class Pixels:
    """Images that are decoded, uint8 [N, C, H, W], and their labels int64 [N]."""

    images: NDArray[np.uint8]
    labels: Indices


# Opening one.

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
        with files.open_regular(path) as file:
            return _rgb(file)
    except _DAMAGE as error:
        raise UnreadableImageError(str(path), _reason(error), file=True) from None


def size_of_file(path: Path) -> tuple[int, int]:
    """Height and width by the head of an image file. Raises `UnreadableImageError`."""
    try:
        with files.open_regular(path) as file, _bombs_refused(), Image.open(file, formats=_FORMATS) as image:
            return image.height, image.width
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
            return as_colours(image, "RGB")
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


# Those that cannot be read: named, counted, left out up to a limit.

_SHOWN = 5
_MOST_BYTES = 256 * 2**20


def corrupt_file(rank: int = 0) -> str:
    """The name of the file in a run directory that lists them: each of several processes has its own."""
    return "corrupt.jsonl" if rank == 0 else f"corrupt-{rank}.jsonl"


class CorruptImages:
    """The images of a data set that could not be read, each once, and why; at most `limit` of them."""

    def __init__(self, limit: int = 100) -> None:
        self.limit = limit
        self.found: dict[str, str] = {}
        self._path: Path | None = None

    def keep_in(self, path: Path) -> None:
        """Write them to `path`, one JSON document a line, as they are found; those there count as found."""
        self._path = path
        unwritten = dict(self.found)
        for where, reason in _listed(path):
            self.found.setdefault(where, reason)
            unwritten.pop(where, None)
        for where, reason in unwritten.items():
            self._write(where, reason)

    def add(self, images: Iterable[tuple[str, str]]) -> None:
        """Count images (where, reason). Raises `DataError` when there are more than `limit`."""
        new = [(where, reason) for where, reason in images if where not in self.found]
        for where, reason in new:
            self.found[where] = reason
            self._write(where, reason)
        if new and len(self.found) > self.limit:
            raise DataError(self._too_many())

    def _too_many(self) -> str:
        first = "; ".join(f"{where}: {reason}" for where, reason in list(self.found.items())[:_SHOWN])
        more = "; ..." if len(self.found) > _SHOWN else ""
        known = f"; all are in {self._path}" if self._path else ""
        return (
            f"{len(self.found)} images cannot be read, input.max_corrupt allows {self.limit}: "
            f"{first}{more}{known}"
        )

    def _write(self, where: str, reason: str) -> None:
        if self._path is None:
            return
        require_held(self._path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with files.open_to_append(self._path) as file:
            file.write((json.dumps({"image": where, "reason": reason}) + "\n").encode("ascii"))


def _listed(path: Path) -> Iterable[tuple[str, str]]:
    """Lines that can be understood: the last one may have been cut off, and is found again."""
    if not path.exists():
        return
    for line in files.read_bytes(path, limit=_MOST_BYTES).decode("utf-8", "replace").splitlines():
        try:
            entry = files.parse_json(line, where=str(path))
            yield str(entry["image"]), str(entry["reason"])
        except (ValueError, KeyError, TypeError):
            continue
