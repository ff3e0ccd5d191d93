"""Pixels of an image for a network, by Pillow; `jstc.core.preprocessing` has the definition. No torch here.

Its functions use numpy and Pillow alone, and nothing else of this module: the script beside exported files
carries their text.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["as_colours", "prepared_pixels"]


def as_colours(image: Image.Image, mode: str) -> Image.Image:
    """The image in Pillow's mode "RGB" or "L". Raises `ValueError` for pixels that 8 bits cannot hold."""
    if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits (Pillow's mode {image.mode}); save it with 8 or 16 bits")
    return image.convert(mode)


def prepared_pixels(
    image: Image.Image, height: int, width: int, resize_side: int | None, interpolation: str
) -> np.ndarray:
    """Bytes [height, width, C], or [height, width] of grey, of an image that is resized and cropped."""
    if image.size != (width, height):
        by, shorter = Image.Resampling[interpolation.upper()], min(image.size)
        wide, high = [resize_side * n // shorter for n in image.size] if resize_side else (width, height)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        # Across, then down: the order that Pillow takes by itself depends on the sizes and on its version.
        image = image.resize((wide, image.height), by).crop((left, 0, left + width, image.height))
        image = image.resize((width, high), by).crop((0, top, width, top + height))
    return np.asarray(image)
