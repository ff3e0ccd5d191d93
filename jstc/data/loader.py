"""Splits whose images are decoded as they are needed, by worker processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch

from jstc.data.corrupt import CorruptImages
from jstc.data.decoding import Images, in_workers
from jstc.data.feeds import Feeds, Place
from jstc.data.info import WHOLE, Batch, DataInfo, Dataset, Part
from jstc.data.items import Items, Request
from jstc.data.memory import normalise
from jstc.data.sampling import Indices, epoch_order, num_steps, spread, stratified
from jstc.errors import DataError
from jstc.recipe import InputSettings

__all__ = ["LoaderSplit", "dataset_from_images"]


@dataclass(frozen=True, eq=False)
class LoaderSplit:
    """A `Split` over images that are decoded when they are needed. `members` are its images' indices.

    In training, an image that cannot be read is replaced by the next one of its batch; in order, it is left
    out. `corrupt` names and counts them. Paused loaders are in `feeds`, which a data set's splits share.
    """

    images: Images
    members: Indices
    info: DataInfo
    settings: InputSettings
    device: torch.device
    augmented: bool
    corrupt: CorruptImages
    feeds: Feeds
    token: object = field(init=False, default_factory=object, repr=False)

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
        part.of_training(0, min(batch_size, self.num_images))
        epochs = _Epochs(self.members, batch_size, seed, augment and self.augmented, part)
        place, steps, load = Place(epoch, start), self.steps(batch_size), self._loading
        if self.settings.workers == 0:  # nothing is prepared, so there is nothing to keep
            yield from itertools.islice(load(epochs.requests(place)), max(steps - start, 0))
            return
        stream = (self.token, *epochs[1:])
        yield from self.feeds.run(stream, place, steps, start=lambda at: load(epochs.requests(at)))

    def ordered(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """All images that can be read, in order, or `limit` spread over them, not augmented."""
        chosen = self.members[spread(self.num_images, limit)]
        starts = range(0, len(chosen), batch_size)
        shares = [part.of(s, min(s + batch_size, len(chosen))) for s in starts]
        parts = [chosen[share] for share in shares if share.start < share.stop]
        requests = (Request(each, 0, len(each), None, replace=False) for each in parts)
        for batch in self._loading(requests, workers=min(self.settings.workers, len(parts))):
            if len(batch[1]):
                yield batch

    @property
    def _loading(self) -> Callable[..., Iterator[Batch]]:
        # Without a reference to the split, whose feeds may keep it: workers end with the last reference,
        # and are late to hear of it from the garbage collector.
        items = Items(self.images, self.info, self.settings)
        return partial(_load, items, settings=self.settings, device=self.device, corrupt=self.corrupt)


class _Epochs(NamedTuple):
    """What decides the batches of a split, whatever the epoch."""

    members: Indices
    batch_size: int
    seed: int
    drawn: bool
    part: Part

    def requests(self, place: Place) -> Iterator[Request]:
        """Batch after batch, epoch after epoch, from `place` on, without end."""
        count, size, step = len(self.members), self.batch_size, place.step
        for epoch in itertools.count(place.epoch):
            order = self.members[epoch_order(count, seed=self.seed, epoch=epoch)]
            for first in range(step * size, num_steps(count, size) * size, size):
                batch = order[first : first + size]
                share = self.part.of_training(0, len(batch))
                draw = (self.seed, epoch, first) if self.drawn else None
                yield Request(batch, share.start, share.stop, draw, replace=True)
            step = 0


def _load(
    items: Items,
    requests: Iterator[Request],
    *,
    settings: InputSettings,
    device: torch.device,
    corrupt: CorruptImages,
    workers: int | None = None,
) -> Iterator[Batch]:
    answers = in_workers(
        items,
        requests,
        workers=settings.workers if workers is None else workers,
        prefetch=settings.prefetch,
        pin_memory=device.type == "cuda",
    )
    for answer in answers:
        corrupt.add(answer.corrupt)
        images, labels = (tensor.to(device, non_blocking=True) for tensor in answer[:2])
        yield normalise(images, items.info), labels


def dataset_from_images(
    info: DataInfo, train: Images, test: Images, *, settings: InputSettings, seed: int, device: torch.device
) -> Dataset:
    """A dataset that decodes its images as they are needed."""
    _require_images(info.name, train, test)
    corrupt = CorruptImages(settings.max_corrupt)
    members = spread(len(train.labels), None)
    everything = LoaderSplit(
        train, members, info, settings, device, augmented=settings.augment, corrupt=corrupt, feeds=Feeds()
    )
    rest, chosen = stratified(train.labels, settings.val_fraction, seed=seed)
    return Dataset(
        info,
        train=replace(everything, members=rest),
        search_val=replace(everything, members=chosen),
        train_full=everything,
        test=replace(everything, images=test, members=spread(len(test.labels), None), augmented=False),
        corrupt=corrupt,
    )


def _require_images(name: str, train: Images, test: Images) -> None:
    for split, images, least in (("training", train, 2), ("test", test, 1)):
        if len(images.labels) < least:
            raise DataError(
                f"dataset '{name}': the {split} split has {len(images.labels)} images; it needs {least}"
            )
