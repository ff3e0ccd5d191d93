"""What happens to images on their way to the network: torchvision's transforms v2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jstc.core.preprocessing import Preprocessing
from jstc.core.torchvision_import import import_torchvision
from jstc.data.base import DataInfo
from jstc.data.pixels import prepared_pixels
from jstc.recipe.schema import InputSettings

__all__ = ["Transform", "for_evaluation", "for_training", "policy", "seeded", "transform_each"]

Transform = Callable[[Any], Tensor]


def for_training(info: DataInfo, settings: InputSettings) -> Transform:
    """Random crop, mirroring and the recipe's policy: a Pillow image to uint8 [C, H, W]."""
    v2 = import_torchvision("torchvision.transforms.v2")
    by = v2.InterpolationMode(info.interpolation)
    steps = [v2.RandomResizedCrop((info.height, info.width), interpolation=by), v2.RandomHorizontalFlip()]
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
