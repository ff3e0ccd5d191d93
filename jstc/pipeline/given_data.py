"""A torch Dataset of the user's, as a `Split`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jstc.data import WHOLE, DataInfo, Dataset, Part, Split
from jstc.data.sampling import epoch_order, num_steps, spread
from jstc.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["GivenSplit", "as_dataset", "as_split"]

Batch = tuple["Tensor", "Tensor"]


@dataclass(frozen=True)
class GivenSplit:
    """Images and labels of `source`, which gives an image tensor [C, H, W] and a whole number for an index.

    The order is a pure function of the seed; whatever `source` does at random is its own affair.
    """

    source: Any
    device: torch.device

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.source)

    def steps(self, batch_size: int) -> int:
        """Batches in one shuffled epoch."""
        return num_steps(self.num_images, batch_size)

    def shuffled(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        start: int = 0,
        augment: bool = True,  # noqa: ARG002 - belongs to the protocol
        part: Part = WHOLE,
    ) -> Iterator[Batch]:
        """One epoch from batch `start` on; augmentation is what `source` does."""
        order = epoch_order(self.num_images, seed=seed, epoch=epoch)
        for step in range(start, self.steps(batch_size)):
            first = step * batch_size
            share = part.of_training(first, min(first + batch_size, self.num_images))
            yield self._batch(order[share].tolist())

    def ordered(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """All images in order, or `limit` spread over them."""
        chosen = spread(self.num_images, limit).tolist()
        for first in range(0, len(chosen), batch_size):
            share = chosen[part.of(first, min(first + batch_size, len(chosen)))]
            if share:
                yield self._batch(share)

    def _batch(self, indices: list[int]) -> Batch:
        import torch

        images, labels = zip(*(self.source[index] for index in indices), strict=True)
        classes = torch.as_tensor([int(label) for label in labels], dtype=torch.int64)
        return torch.stack(images).to(self.device, torch.float32), classes.to(self.device)


def as_split(data: Any, device: torch.device) -> Split:
    """`data` if it is a `Split`, otherwise a torch Dataset as one.

    Raises `DataError` unless its items are pairs of an image tensor [C, H, W] and a whole number.
    """
    import torch

    if hasattr(data, "shuffled") and hasattr(data, "ordered"):
        split: Split = data
        return split
    try:
        image, label = data[0]
        good = len(data) > 0 and isinstance(image, torch.Tensor) and image.dim() == 3 and int(label) >= 0
    except (TypeError, ValueError, IndexError, KeyError):
        good = False
    if not good:
        raise DataError(
            "expected a torch Dataset with pairs of an image tensor [C, H, W] and a class number, or a "
            f"Split of jstc; got {type(data).__name__}"
        )
    return GivenSplit(data, device)


def as_dataset(train: Any, val: Any, *, num_classes: int, device: torch.device) -> Dataset:
    """A dataset of two splits: `val` is both what the search is judged on and what is reported."""
    train, val = as_split(train, device), as_split(val, device)
    images, _ = next(iter(val.ordered(1, limit=1)))
    _, channels, height, width = images.shape
    labels = tuple(str(number) for number in range(num_classes))
    info = DataInfo("given", labels, channels, height, width, (0.0,) * channels, (1.0,) * channels)
    return Dataset(info=info, train=train, search_val=val, train_full=train, test=val)
