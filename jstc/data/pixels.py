"""Pixels of an image for a network, by Pillow; `jstc.core.preprocessing` has the definition. No torch here.

Its functions use numpy and Pillow alone, and nothing else of this module but each other: the script beside
exported files carries their text.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["as_colours", "eight_bits", "is_transparent", "prepared_pixels"]


def as_colours(image: Image.Image, mode: str, background: tuple[int, int, int] | None) -> Image.Image:
    """The image in Pillow's mode "RGB" or "L", laid on `background`; None drops what is transparent of it.

    Raises `ValueError` for pixels that 8 bits cannot hold.
    """
    image = eight_bits(image)
    if background is not None and is_transparent(image):
        ground = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    return image.convert(mode)


def is_transparent(image: Image.Image) -> bool:
    """Can the image have transparent pixels?"""
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info


def eight_bits(image: Image.Image) -> Image.Image:
    """The upper 8 of 16 bits of grey, or of the 12 that some TIFF files have; other images as they are.

    Raises `ValueError` for pixels whose range is not known.
    """
    tags = getattr(image, "tag_v2", {})  # of TIFF: 258 bits of a pixel, 262 is 0 where 0 means white
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        upper = np.asarray(image) >> (tags.get(258, (16,))[0] - 8)
        return Image.fromarray((255 - upper if tags.get(262) == 0 else upper).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floating-point numbers" if image.mode == "F" else "whole numbers of more than 16 bits"
        raise ValueError(f"its pixels are {kind}, of which no range is known; save it with 8 or 16 bits")
    return image


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
