"""Pillow's resampling as products of matrices, bit for bit, for images that are in memory.

Pillow weighs the pixels under a filter in fixed point: weights are whole multiples of 2^-22, and what they
give is rounded to a byte (Resample.c, for images of 8 bits a channel). The sums stay below 2^31, so float64
has them exactly, in whatever order they are added.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jstc.core.preprocessing import Interpolation, Preprocessing

__all__ = ["PRECISION", "RADIUS", "resampled", "weights"]

PRECISION = 2.0**22
RADIUS: dict[Interpolation, float] = {"bilinear": 1.0, "bicubic": 2.0}
"""How far a filter reaches, in pixels of whichever image is the smaller one."""


def _filtered(distance: NDArray[np.float64], interpolation: Interpolation) -> NDArray[np.float64]:
    """The filter at a distance; bicubic is Keys' with a = -0.5 (doi:10.1109/TASSP.1981.1163711)."""
    x = np.abs(distance)
    found: NDArray[np.float64] = np.maximum(1 - x, 0)
    if interpolation == "bicubic":
        near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
        found = np.where(x < 1, near, np.where(x < 2, far, 0))
    return found


def weights(
    length: int, resized: int, *, first: int, count: int, interpolation: Interpolation
) -> NDArray[np.float64]:
    """Weights [count, length], in units of 2^-22, for `count` pixels from `first` on of `resized` ones."""
    scale = length / resized
    reach = max(scale, 1.0)
    centres = (np.arange(first, first + count) + 0.5)[:, None] * scale
    begin = np.maximum(np.floor(centres - RADIUS[interpolation] * reach + 0.5), 0)
    end = np.minimum(np.floor(centres + RADIUS[interpolation] * reach + 0.5), length)
    places = np.arange(length)[None]
    found = _filtered((places - centres + 0.5) * (1 / reach), interpolation)
    found *= (places >= begin) & (places < end)
    found *= PRECISION / found.sum(1, keepdims=True)
    whole: NDArray[np.float64] = np.trunc(found + np.copysign(0.5, found))
    return whole


def resampled(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Bytes [N, C, height, width] of the network's size, of bytes [N, C, H, W] of any."""
    height, width = pixels.shape[-2:]
    if (height, width) == (preprocessing.height, preprocessing.width):
        return pixels
    down, across = _matrices(height, width, preprocessing, pixels.device)
    return _rounded(down @ _rounded(pixels.double() @ across)).to(torch.uint8)


def _rounded(sums: Tensor) -> Tensor:
    return ((sums + PRECISION / 2) / PRECISION).floor_().clamp_(0, 255)


@cache
def _matrices(height: int, width: int, to: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weights [to.height, height], and [width, to.width]. Kept: a split asks for the same with each batch."""
    found = []
    for length, count in ((height, to.height), (width, to.width)):
        resized = count if to.resize_side is None else to.resize_side * length // min(height, width)
        first = round((resized - count) / 2)
        made = weights(length, resized, first=first, count=count, interpolation=to.interpolation)
        found.append(torch.from_numpy(made).to(device))
    return found[0], found[1].T.contiguous()
