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
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from jstc.core import files
from jstc.core.files import require_held
from jstc.core.preprocessing import BACKGROUNDS, Colour
from jstc.data.pixels import as_colours, eight_bits, is_transparent
from jstc.data.sampling import Indices
from jstc.errors import DataError

__all__ = [
    "CorruptImages",
    "Encoded",
    "Images",
    "Look",
    "Pixels",
    "UnreadableImageError",
    "corrupt_file",
    "endings",
    "open_bytes",
    "open_file",
]


@dataclass(frozen=True)
class Images:
    """Images that can be had one at a time, as they are stored, and their labels int64 [N]."""

    read: Callable[[int], Encoded]
    labels: Indices

    def picked(self, members: Indices) -> Images:
        """The images of some indices, in their order."""
        return Images(_Picked(self.read, members), self.labels[members])


@dataclass(frozen=True)
class _Picked:
    read: Callable[[int], Encoded]
    members: Indices

    def __call__(self, index: int) -> Encoded:
        return self.read(int(self.members[index]))


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
_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".dib", ".tif", ".tiff",
    ".webp", ".gif",
)  # fmt: skip
_MOST_ELONGATED = 100  # scaling the shorter side of anything longer to that of the network fills the memory
_DARK = 16  # of 256
_ORIENTATION = 274  # of EXIF data; 1 is upright


@cache
def _has_avif() -> bool:
    # since Pillow 11.3, where it was built so
    return "avif" in features.modules and bool(features.check("avif"))


def endings() -> tuple[str, ...]:
    """What the names of images end in, in lower case, that can be read here."""
    return (*_ENDINGS, ".avif") if _has_avif() else _ENDINGS


def _formats() -> tuple[str, ...]:
    return (*_FORMATS, "AVIF") if _has_avif() else _FORMATS


class UnreadableImageError(DataError):
    """An image that cannot be decoded: `where` it is, and why."""

    def __init__(self, where: str, reason: str, *, file: bool = False) -> None:
        super().__init__(f"cannot read {'image' if file else 'the image in'} {where}: {reason}")
        self.where = where
        self.reason = reason


class Look(NamedTuple):
    """What an image shows at a look: its size, and what people may not expect of it.

    Is any pixel transparent, does EXIF turn it, does it use less than a sixteenth of its 16 bits?
    """

    height: int
    width: int
    transparent: bool = False
    turned: bool = False
    dark: bool = False


class Encoded(NamedTuple):
    """An image as it is stored: a file, or bytes in memory, None where there are none; `where` names it."""

    data: Any
    where: str

    def rgb(self, background: Colour | None) -> Image.Image:
        """The image as RGB, laid on a colour. Raises `UnreadableImageError` when it cannot be decoded."""
        with self._opened() as image:
            if image.mode != "RGB" or is_transparent(image):
                return as_colours(image, "RGB", background)
            image.load()  # converting it would only copy it
            return image

    def look(self) -> Look:
        """What there is to see of the decoded image. Raises `UnreadableImageError`."""
        with self._opened() as image:
            turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
            image.load()
            found, transparent = eight_bits(image), False
            brightest: Any = found.getextrema()[1] if found is not image else _DARK
            if is_transparent(found):
                alpha: Any = found.convert("RGBA").getchannel("A").getextrema()
                transparent = alpha[0] < 255
            return Look(image.height, image.width, transparent, turned, brightest < _DARK)

    def size(self) -> tuple[int, int]:
        """Height and width by the head of the image. Raises `UnreadableImageError`."""
        with self._opened() as image:
            return image.height, image.width

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Image.Image]:
        """The image, of which the head is read; what goes wrong with it becomes `UnreadableImageError`."""
        of_file = isinstance(self.data, Path)
        if self.data is None:
            raise UnreadableImageError(self.where, "no bytes")
        try:
            with contextlib.ExitStack() as stack:
                source = stack.enter_context(files.open_regular(self.data)) if of_file else self._stream()
                stack.enter_context(_bombs_refused())
                image = stack.enter_context(Image.open(source, formats=_formats()))
                if max(image.size) > _MOST_ELONGATED * min(image.size):
                    raise ValueError("{}x{} pixels, more than 100 to 1".format(*image.size))
                yield image
        except _DAMAGE as error:
            raise UnreadableImageError(self.where, _reason(error), file=of_file) from None

    def _stream(self) -> io.BytesIO:
        return io.BytesIO(self.data)


def open_file(path: Path, background: Colour | None = BACKGROUNDS["white"]) -> Image.Image:
    """An image file as RGB. Raises `UnreadableImageError` when it cannot be decoded."""
    return Encoded(path, str(path)).rgb(background)


def open_bytes(data: object, where: str, background: Colour | None = BACKGROUNDS["white"]) -> Image.Image:
    """An encoded image as RGB. Raises `UnreadableImageError`, which says `where`, for one that is none."""
    return Encoded(data, where).rgb(background)


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
_MOST_CORRUPT = 100
_MOST_BYTES = 256 * 2**20


def corrupt_file(rank: int = 0) -> str:
    """The name of the file in a run directory that lists them: each of several processes has its own."""
    return "corrupt.jsonl" if rank == 0 else f"corrupt-{rank}.jsonl"


class CorruptImages:
    """The images of a data set that could not be read, each once, and why; at most `limit` (100) of them."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = _MOST_CORRUPT if limit is None else limit
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
