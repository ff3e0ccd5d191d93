"""Opening image files and bytes, with errors that name them. No torch here."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from jstc.errors import DataError

__all__ = ["UnreadableImageError", "open_bytes", "open_file"]

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
