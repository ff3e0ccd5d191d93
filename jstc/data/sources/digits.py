"""The digits that scikit-learn carries: 1,797 grey 8x8 images, no download. No torch at import."""

from __future__ import annotations

import numpy as np

from jstc.data.base import DataInfo, Source, background_of, side_of
from jstc.data.images import Pixels
from jstc.data.sampling import set_aside
from jstc.recipe.schema import InputSettings

__all__ = ["describe", "load"]

_SIDE = 32  # what the CIFAR networks are made for
_TEST_SHARE = 1 / 3
_MEAN, _STD = 0.305, 0.323


def describe(settings: InputSettings) -> DataInfo:
    """Form of the dataset."""
    side, by = side_of(settings, _SIDE)
    labels = tuple(str(digit) for digit in range(10))
    return DataInfo(
        "digits",
        labels,
        3,
        side,
        side,
        (_MEAN,) * 3,
        (_STD,) * 3,
        size_from=by,
        background=background_of(settings),
    )


def load(settings: InputSettings) -> Source:
    """Load the digits as RGB images; a fixed third of every class is the test split."""
    import torch
    from sklearn.datasets import load_digits
    from torch.nn import functional as F

    pixels, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(pixels / 16 * 255).float().view(-1, 1, 8, 8)
    large = F.interpolate(grey, (_SIDE, _SIDE), mode="bilinear", align_corners=False)
    images = large.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous().numpy()
    classes = labels.astype(np.int64)
    train, test = (Pixels(images[chosen], classes[chosen]) for chosen in set_aside(classes, _TEST_SHARE))
    # A mirrored digit is another sign.
    return Source(describe(settings), train, test, memory_size=(_SIDE, _SIDE), mirrored=False)
