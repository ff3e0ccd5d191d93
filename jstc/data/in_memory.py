"""Splits that live on the device as bytes: shifted, mirrored and normalised a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from jstc.core.seeds import derive
from jstc.data.base import WHOLE, Batch, DataInfo, Dataset, Epoch, Part, Split
from jstc.data.images import CorruptImages
from jstc.data.sampling import Indices, epoch_order, num_steps, spread, stratified
from jstc.data.transforms import Transform, policy, resampled, transform_each
from jstc.recipe.schema import InputSettings

__all__ = ["Augmentation", "MemorySplit", "dataset_in_memory", "normalise"]


@dataclass(frozen=True)
class Augmentation:
    """Random shifts of up to `padding` pixels over a black border, and whether to mirror half the images.

    Then `policy`, image by image.
    """

    padding: int
    flip: bool
    policy: Transform | None = None

    @classmethod
    def wanted(cls, settings: InputSettings, info: DataInfo, *, side: int, flip: bool) -> Augmentation | None:
        """The recipe's, for images of a side; None where it wants none.

        Shifts are the field's habit at 32 pixels, which is 4 of padding, scaled to another side.
        """
        if not settings.augment:
            return None
        return cls(padding=max(1, round(side / 8)), flip=flip, policy=policy(settings, info))


@dataclass(frozen=True)
class MemorySplit:
    """A `Split` over images uint8 [N, C, H, W] and labels int64 [N] that are on the device already.

    `members` are the indices that belong to this split, so that splits share their images.
    Images of another size than that in `info` are prepared as it says, after augmentation.
    """

    images: Tensor
    labels: Tensor
    members: Tensor
    info: DataInfo
    augmentation: Augmentation | None

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.members)

    def steps(self, batch_size: int) -> int:
        """Batches in one shuffled epoch."""
        return num_steps(self.num_images, batch_size)

    def shuffled(self, batch_size: int, epoch: Epoch, *, part: Part = WHOLE) -> Iterator[Batch]:
        """The batches of one epoch for training; see `Split`."""
        seed, number = epoch.seed, epoch.number
        order = torch.from_numpy(epoch_order(self.num_images, seed=seed, epoch=number))
        members = self.members[order.to(self.members.device)]
        shifts = self._draw(seed, number) if epoch.augment and self.augmentation else None
        for step in range(epoch.start, self.steps(batch_size)):
            first = step * batch_size
            share = part.of_training(first, min(first + batch_size, self.num_images))
            moved = None if shifts is None else self._moved(members[share], shifts[share])
            if moved is not None and self.augmentation and self.augmentation.policy:
                seeds = [derive(seed, "policy", number, n) for n in range(share.start, share.stop)]
                moved = transform_each(moved, self.augmentation.policy, seeds)
            yield self._batch(members[share], moved)

    def ordered(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """All images in order, or `limit` spread over them, not augmented."""
        chosen = torch.from_numpy(spread(self.num_images, limit)).to(self.members.device)
        for batch in torch.split(self.members[chosen], batch_size):
            share = batch[part.of(0, len(batch))]
            if len(share):
                yield self._batch(share)

    def originals(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """All images in order, or `limit` spread over them, as bytes of the size that they have."""
        chosen = torch.from_numpy(spread(self.num_images, limit)).to(self.members.device)
        for batch in torch.split(self.members[chosen], batch_size):
            share = batch[part.of(0, len(batch))]
            if len(share):
                yield self.images[share], self.labels[share]

    def _draw(self, seed: int, epoch: int) -> Tensor:
        # Drawn on the CPU for the whole epoch: the same numbers on every device, one transfer, and a
        # batch's share does not depend on where the epoch was entered. Columns: down, right, mirrored.
        assert self.augmentation is not None
        generator = torch.Generator().manual_seed(derive(seed, "augment", epoch))
        span = 2 * self.augmentation.padding + 1
        moves = torch.randint(span, (self.num_images, 2), generator=generator)
        mirrored = torch.randint(2, (self.num_images, 1), generator=generator) * int(self.augmentation.flip)
        return torch.cat([moves, mirrored], 1).to(self.images.device)

    def _moved(self, members: Tensor, shifts: Tensor) -> Tensor:
        assert self.augmentation is not None
        return _move(self.images[members], shifts, self.augmentation.padding)

    def _batch(self, members: Tensor, images: Tensor | None = None) -> Batch:
        pixels = resampled(self.images[members] if images is None else images, self.info.preprocessing)
        return normalise(pixels, self.info), self.labels[members]


def _move(images: Tensor, shifts: Tensor, padding: int) -> Tensor:
    # Every image is a window of its padded self; mirroring reads the window's columns backwards.
    count, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    across = torch.arange(width, device=images.device)
    mirrored = shifts[:, 2:].bool()
    columns = torch.where(mirrored, width - 1 - across, across) + shifts[:, 1:2]
    rows = torch.arange(height, device=images.device) + shifts[:, 0:1]
    index = torch.arange(count, device=images.device)
    # Indexing puts the indexed dimensions first: [N, H, W, C]
    moved = padded.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()


def normalise(images: Tensor, info: DataInfo) -> Tensor:
    """uint8 [N, C, H, W] -> float32 [N, C, H, W], normalised."""
    mean, std = _figures(info.mean, info.std, images.device)
    return (images.float() - mean) / std


@cache
def _figures(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    # Kept, because moving even these to an accelerator for every batch would wait for it.
    both = torch.tensor([mean, std]).to(device) * 255
    return both[0].view(1, -1, 1, 1), both[1].view(1, -1, 1, 1)


Arrays = tuple[Tensor, Tensor]


def dataset_in_memory(
    info: DataInfo,
    train: Arrays,
    test: Arrays,
    *,
    augmentation: Augmentation | None,
    val_fraction: float,
    seed: int,
    device: torch.device,
    corrupt: CorruptImages | None = None,
) -> Dataset:
    """A dataset from uint8 images [N, C, H, W] and int64 labels [N] of its train and test splits."""
    whole = _whole(info, train, augmentation, device)
    rest, chosen = stratified(train[1].numpy(), val_fraction, seed=seed)
    return Dataset(
        info,
        train=_part(whole, rest),
        search_val=_part(whole, chosen),
        train_full=whole,
        test=_whole(info, test, None, device),
        corrupt=corrupt or CorruptImages(),
    )


def _whole(
    info: DataInfo, arrays: Arrays, augmentation: Augmentation | None, device: torch.device
) -> MemorySplit:
    images, labels = (tensor.to(device) for tensor in arrays)
    members = torch.arange(len(labels), device=device)
    return MemorySplit(images, labels, members, info, augmentation)


def _part(whole: MemorySplit, indices: Indices) -> Split:
    members = torch.from_numpy(np.ascontiguousarray(indices)).to(whole.members.device)
    return replace(whole, members=members)
