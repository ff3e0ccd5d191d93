"""Splits whose images are decoded as they are needed, by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from jstc.data.decoding import Images, in_workers
from jstc.data.info import WHOLE, Batch, DataInfo, Dataset, Part, resize_side
from jstc.data.memory import normalise
from jstc.data.sampling import Indices, epoch_order, num_steps, seed_for, spread, stratified
from jstc.recipe import InputSettings
from jstc.torchvision_import import import_torchvision

__all__ = ["LoaderSplit", "dataset_from_images"]

_NO_SEED = -1
_Key = tuple[int, int]  # an image's index, and the seed of its augmentation or _NO_SEED


@dataclass(frozen=True)
class LoaderSplit:
    """A `Split` over images that are decoded when they are needed. `members` are its images' indices."""

    images: Images
    members: Indices
    info: DataInfo
    workers: int
    device: torch.device
    augmented: bool

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.members)

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
        augment: bool = True,
        part: Part = WHOLE,
    ) -> Iterator[Batch]:
        """One epoch for training, from batch `start` on; see `Split`."""
        order = epoch_order(self.num_images, seed=seed, epoch=epoch)
        drawn = augment and self.augmented

        def key(position: int) -> _Key:
            own = seed_for(seed, "augment", epoch, position) if drawn else _NO_SEED
            return int(self.members[order[position]]), own

        starts = range(start * batch_size, self.steps(batch_size) * batch_size, batch_size)
        shares = [part.of_training(s, min(s + batch_size, self.num_images)) for s in starts]
        yield from self._load(
            ([key(p) for p in range(share.start, share.stop)] for share in shares), len(shares)
        )

    def ordered(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """All images in order, or `limit` spread over them, not augmented."""
        chosen = self.members[spread(self.num_images, limit)]
        starts = range(0, len(chosen), batch_size)
        shares = [part.of(s, min(s + batch_size, len(chosen))) for s in starts]
        shares = [share for share in shares if share.start < share.stop]
        yield from self._load(
            ([(int(index), _NO_SEED) for index in chosen[share]] for share in shares), len(shares)
        )

    def _load(self, batches: Iterator[list[_Key]], count: int) -> Iterator[Batch]:
        items = _Items(self.images, self.info)
        pin = self.device.type == "cuda"
        for batch in in_workers(items, batches, workers=min(self.workers, count), pin_memory=pin):
            images, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            yield normalise(images, self.info), labels


class _Items(TorchDataset[tuple[Tensor, int]]):
    """Decoded and augmented images uint8 [3, H, W] with their labels, by key."""

    def __init__(self, images: Images, info: DataInfo) -> None:
        v2 = import_torchvision("torchvision.transforms.v2")
        size = (info.height, info.width)
        self.images = images
        self.for_training = v2.Compose(
            [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.PILToTensor()]
        )
        side = info.resize_side or resize_side(*size)
        self.for_evaluation = v2.Compose([v2.Resize(side), v2.CenterCrop(size), v2.PILToTensor()])

    def __getitem__(self, key: _Key) -> tuple[Tensor, int]:
        index, seed = key
        image = self.images.read(index)
        label = int(self.images.labels[index])
        if seed == _NO_SEED:
            return self.for_evaluation(image), label
        # The transforms draw from torch's global state. Without workers that is the caller's, so it is
        # put back; and torch.manual_seed would reach for the accelerator's as well.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.for_training(image), label


def dataset_from_images(
    info: DataInfo, train: Images, test: Images, *, settings: InputSettings, seed: int, device: torch.device
) -> Dataset:
    """A dataset that decodes its images as they are needed."""
    everything = LoaderSplit(
        train, spread(len(train.labels), None), info, settings.workers, device, settings.augment
    )
    rest, chosen = stratified(train.labels, settings.val_fraction, seed=seed)
    return Dataset(
        info,
        train=replace(everything, members=rest),
        search_val=replace(everything, members=chosen),
        train_full=everything,
        test=replace(everything, images=test, members=spread(len(test.labels), None), augmented=False),
    )
