"""What happens to images on their way to the network: torchvision's transforms v2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jstc.core.preprocessing import Interpolation, Preprocessing
from jstc.core.torchvision_import import import_torchvision
from jstc.data.base import DataInfo
from jstc.data.pixels import prepared_pixels
from jstc.recipe.schema import InputSettings

__all__ = [
    "PRECISION",
    "RADIUS",
    "Transform",
    "for_evaluation",
    "for_training",
    "policy",
    "resampled",
    "seeded",
    "transform_each",
    "weights",
]


Transform = Callable[[Any], Tensor]


def for_training(info: DataInfo, settings: InputSettings) -> Transform:
    """Random crop, mirroring and the recipe's policy: a Pillow image to uint8 [C, H, W]."""
    v2 = import_torchvision("torchvision.transforms.v2")
    by = v2.InterpolationMode(info.interpolation)
    # Crops as tall and as wide as torchvision's, about the form that the network gets.
    ratio = tuple(info.width / info.height * side for side in (3 / 4, 4 / 3))
    crop = v2.RandomResizedCrop((info.height, info.width), ratio=ratio, interpolation=by)
    steps = [crop, v2.RandomHorizontalFlip()]
    steps += [*_auto_augment(settings), v2.PILToTensor(), *_erasing(settings, info)]
    transform: Transform = v2.Compose(steps)
    return transform


def for_evaluation(info: DataInfo) -> Transform:
    """The data set's preprocessing, without its normalisation: a Pillow image to uint8 [C, H, W]."""
    return partial(_prepared, info.preprocessing)


def _prepared(to: Preprocessing, image: Any) -> Tensor:
    pixels = prepared_pixels(image, to.height, to.width, to.resize_side, to.interpolation)
    return torch.from_numpy(np.atleast_3d(pixels).transpose(2, 0, 1).copy())


def policy(settings: InputSettings, info: DataInfo) -> Transform | None:
    """What the recipe adds to crops or shifts: uint8 [C, H, W] to uint8 [C, H, W]; None for nothing."""
    steps = [*_auto_augment(settings), *_erasing(settings, info)]
    if not steps or not settings.augment:
        return None
    transform: Transform = import_torchvision("torchvision.transforms.v2").Compose(steps)
    return transform


def _auto_augment(settings: InputSettings) -> list[Any]:
    v2 = import_torchvision("torchvision.transforms.v2")
    bilinear = v2.InterpolationMode.BILINEAR  # as in torchvision's own training recipes
    if settings.auto_augment == "randaugment":
        ops, magnitude = settings.randaugment_ops, settings.randaugment_magnitude
        return [v2.RandAugment(num_ops=ops, magnitude=magnitude, interpolation=bilinear)]
    if settings.auto_augment == "trivialaugment":
        return [v2.TrivialAugmentWide(interpolation=bilinear)]
    return []


def _erasing(settings: InputSettings, info: DataInfo) -> list[Any]:
    """Erased before normalisation, so with the mean: what is 0 after it."""
    if not settings.random_erasing:
        return []
    v2 = import_torchvision("torchvision.transforms.v2")
    return [v2.RandomErasing(settings.random_erasing, value=[round(255 * mean) for mean in info.mean])]


def transform_each(images: Tensor, transform: Transform, seeds: list[int]) -> Tensor:
    """Every image of [N, C, H, W] transformed with random numbers of its own."""
    out = torch.empty_like(images)
    with torch.random.fork_rng(devices=[]):
        for number, seed in enumerate(seeds):
            torch.default_generator.manual_seed(seed)
            out[number] = transform(images[number])
    return out


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start torch's global generator of the CPU at `seed` in the block; afterwards it is as before.

    The transforms draw from that one and take no other. torch.manual_seed would reach for those of the
    accelerators as well.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


# Pillow's resampling as products of matrices, bit for bit, for images that are in memory.
#
# Pillow weighs the pixels under a filter in fixed point: weights are whole multiples of 2^-22, and what they
# give is rounded to a byte (Resample.c, for images of 8 bits a channel). The sums stay below 2^31, so float64
# has them exactly, in whatever order they are added.


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
