"""What a worker process does: a batch of images, read, decoded and transformed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from jstc.data import transforms
from jstc.data.decoding import Images
from jstc.data.images import UnreadableImageError
from jstc.data.info import DataInfo
from jstc.data.sampling import Indices, seed_for
from jstc.errors import DataError
from jstc.recipe import InputSettings

__all__ = ["Answer", "Items", "Request"]


class Request(NamedTuple):
    """The positions `start` to `stop` of a batch that has the images `images`.

    `draw` is the seed, the epoch and the place in it of the batch's first image, None without augmentation.
    With `replace` an image that cannot be read is replaced by the next one of the batch, else left out.
    """

    images: Indices
    start: int
    stop: int
    draw: tuple[int, int, int] | None
    replace: bool


class Answer(NamedTuple):
    """Images uint8 [N, 3, H, W], labels int64 [N], and what could not be read: where, and why."""

    images: Tensor
    labels: Tensor
    corrupt: list[tuple[str, str]]


class Items(Dataset[Answer]):
    """Decoded and transformed images by request.

    An answer is a function of its request and the files: whichever process gives it, in whatever order.
    """

    def __init__(self, images: Images, info: DataInfo, settings: InputSettings) -> None:
        self.images = images
        self.info = info
        self.for_training = transforms.for_training(info, settings)
        self.for_evaluation = transforms.for_evaluation(info)

    def __getitems__(self, request: Request) -> Answer:
        corrupt: dict[str, str] = {}
        found = [self._at(request, n, corrupt) for n in range(request.start, request.stop)]
        good = [each for each in found if each is not None]
        pixels = torch.stack([image for image, _ in good]) if good else _none(self.info)
        labels = torch.tensor([label for _, label in good], dtype=torch.int64)
        return Answer(pixels, labels, list(corrupt.items()))

    def _at(self, request: Request, position: int, corrupt: dict[str, str]) -> tuple[Tensor, int] | None:
        """The image at a position, or the next that can be read, with the augmentation of the position."""
        count = len(request.images)
        for step in range(count if request.replace else 1):
            index = int(request.images[(position + step) % count])
            try:
                return self._transformed(index, request.draw, position), int(self.images.labels[index])
            except UnreadableImageError as error:
                corrupt[error.where] = error.reason
        if not request.replace:
            return None
        where, reason = next(iter(corrupt.items()))
        raise DataError(f"none of the {count} images of a batch can be read, such as {where}: {reason}")

    def _transformed(self, index: int, draw: tuple[int, int, int] | None, position: int) -> Tensor:
        image = self.images.read(index)
        if draw is None:
            return self.for_evaluation(image)
        seed, epoch, first = draw
        with transforms.seeded(seed_for(seed, "augment", epoch, first + position)):
            return self.for_training(image)


def _none(info: DataInfo) -> Tensor:
    return torch.empty((0, 3, info.height, info.width), dtype=torch.uint8)
