"""Image files as people have them: several sizes, modes and formats, for a network of a given size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

__all__ = ["raw_images"]

_ROTATED = 0x112, 6  # EXIF's orientation: to be turned by a quarter


def _noise(height: int, width: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def raw_images(side: int, *, each: int = 1) -> Iterator[tuple[str, Image.Image, dict[str, object]]]:
    """Name of a file, image, and options of `save`; `each` of every kind."""
    rotated = Image.Exif()
    rotated[_ROTATED[0]] = _ROTATED[1]
    for number in range(each):
        seed = 100 * number
        sixteen = np.random.default_rng(seed).integers(0, 65536, (side + 5, side + 9), dtype=np.uint16)
        large = _noise(2 * side + 1, 3 * side, seed + 1)
        glass, sign = large.copy(), large.quantize(16)
        glass.putalpha(_noise(2 * side + 1, 3 * side, seed + 9).convert("L"))
        kinds: dict[str, tuple[Image.Image, dict[str, object]]] = {
            "exact.png": (_noise(side, side, seed + 2), {}),
            "exact_grey.png": (_noise(side, side, seed + 3).convert("L"), {}),
            "smaller.png": (_noise(side - 5, side - 3, seed + 4), {}),
            "larger.png": (large, {}),
            "tall.bmp": (_noise(5 * side, side, seed + 5), {}),  # Pillow 13 would resize it down first
            "wide.webp": (_noise(side, 4 * side, seed + 6), {"lossless": True}),
            "palette.png": (large.quantize(31), {}),
            "alpha.png": (large.convert("RGBA"), {}),
            "glass.png": (glass, {}),
            "grey_glass.png": (glass.convert("LA"), {}),
            "sign.png": (sign, {"transparency": 3}),
            "moving.gif": (sign, {"save_all": True, "append_images": [large.quantize(8)]}),
            "sixteen.png": (Image.fromarray(sixteen), {}),
            "microscope_sixteen.tif": (Image.fromarray(sixteen), {}),
            "photo.jpg": (_noise(side + 3, side + 8, seed + 7), {"quality": 95}),
            "rotated.jpg": (_noise(2 * side, 3 * side, seed + 8), {"exif": rotated}),
            "print.jpg": (large.convert("CMYK"), {}),
        }
        for name, (image, options) in kinds.items():
            yield f"{number}_{name}", image, options
