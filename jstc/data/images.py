"""Opening image files and bytes, with errors that name them. No torch here."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from jstc.errors import DataError

__all__ = ["open_bytes", "open_file"]


def open_file(path: Path) -> Image.Image:
    """An image file as RGB. Raises `DataError` when it cannot be decoded."""
    try:
        with Image.open(path) as image:
            return _rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read image {path}: {_reason(error)}") from None


def open_bytes(data: object, where: str) -> Image.Image:
    """An encoded image as RGB. Raises `DataError`, which says `where`, when it cannot be decoded."""
    if data is None:
        raise DataError(f"no image bytes in {where}")
    try:
        with Image.open(io.BytesIO(data)) as image:  # type: ignore[arg-type]
            return _rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the image in {where}: {_reason(error)}") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode != "RGB":  # grey, palette, CMYK ... Converting RGB would only copy it
        return image.convert("RGB")
    image.load()
    return image


def _reason(error: Exception) -> str:
    # Pillow's own text for foreign bytes names a Python object, which helps nobody
    return "not an image" if "cannot identify image" in str(error) else str(error)
