"""Splits whose images are decoded as they are needed, by worker processes."""

from __future__ import annotations

import atexit
import itertools
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from jstc.core.preprocessing import Preprocessing
from jstc.core.seeds import derive
from jstc.data import transforms
from jstc.data.base import WHOLE, Batch, DataInfo, Dataset, Epoch, Part, Source
from jstc.data.decoding import decode_all, in_workers, original_batches
from jstc.data.images import CorruptImages, Images, Pixels, UnreadableImageError
from jstc.data.in_memory import Arrays, Augmentation, dataset_in_memory, normalise
from jstc.data.sampling import Indices, epoch_order, num_steps, spread, stratified
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = [
    "BatchDataset",
    "BatchRequest",
    "DecodedBatch",
    "Epochs",
    "LoaderCache",
    "LoaderSplit",
    "Place",
    "dataset_of",
]

# What a worker process does: a batch of images, read, decoded and transformed.


class BatchRequest(NamedTuple):
    """The positions `start` to `stop` of a batch that has the images `images`.

    `draw` is the seed, the epoch and the place in it of the batch's first image, None without augmentation.
    With `replace` an image that cannot be read is replaced by the next one of the batch, else left out.
    """

    images: Indices
    start: int
    stop: int
    draw: tuple[int, int, int] | None
    replace: bool


class DecodedBatch(NamedTuple):
    """Images uint8 [N, 3, H, W], labels int64 [N], and what could not be read: where, and why."""

    images: Tensor
    labels: Tensor
    corrupt: list[tuple[str, str]]


class BatchDataset(TorchDataset[DecodedBatch]):
    """Decoded and transformed images, a batch for each request, for a `DataLoader` to give to its workers.

    A batch is a function of its request and the files: whichever process gives it, in whatever order.
    """

    def __init__(self, images: Images, info: DataInfo, settings: InputSettings) -> None:
        self.images = images
        self.info = info
        self.for_training = transforms.for_training(info, settings)
        self.for_evaluation = transforms.for_evaluation(info)

    def __getitems__(self, request: BatchRequest) -> DecodedBatch:
        corrupt: dict[str, str] = {}
        found = [self._at(request, n, corrupt) for n in range(request.start, request.stop)]
        good = [each for each in found if each is not None]
        pixels = torch.stack([image for image, _ in good]) if good else _none(self.info)
        labels = torch.tensor([label for _, label in good], dtype=torch.int64)
        return DecodedBatch(pixels, labels, list(corrupt.items()))

    def _at(self, request: BatchRequest, position: int, corrupt: dict[str, str]) -> tuple[Tensor, int] | None:
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
        image = self.images.read(index).rgb(self.info.background)
        if draw is None:
            return self.for_evaluation(image)
        seed, epoch, first = draw
        with transforms.seeded(derive(seed, "augment", epoch, first + position)):
            return self.for_training(image)


def _none(info: DataInfo) -> Tensor:
    return torch.empty((0, 3, info.height, info.width), dtype=torch.uint8)


# Loaders that pause between two uses, with what their workers have prepared.

_MOST = 2  # a search trains on one split and asks another in turn


class Place(NamedTuple):
    """The next batch of a loader."""

    epoch: int
    step: int


_CACHES: weakref.WeakSet[LoaderCache] = weakref.WeakSet()


def _close_all() -> None:
    for cache in list(_CACHES):
        cache.close()


class LoaderCache:
    """Endless iterators over epoch after epoch, each to be had again at the place where it was left.

    Starting workers takes long, and what they have prepared would be lost: a round that ends after a few
    batches leaves its loader for the next round, which begins with the next batch. The least recently used
    ones are given up.
    """

    def __init__(self) -> None:
        self._paused: dict[Hashable, Iterator[Any]] = {}
        _CACHES.add(self)

    def run(
        self, stream: Hashable, place: Place, steps: int, *, start: Callable[[Place], Iterator[Any]]
    ) -> Iterator[Any]:
        """The batches of an epoch of `steps` from `place` on; `start` makes a new loader where none waits."""
        loader = self._paused.pop((stream, place), None) or start(place)
        whole = True
        try:
            while place.step < steps:
                whole = False
                batch = next(loader)
                whole, place = True, Place(place.epoch, place.step + 1)
                yield batch
        finally:
            if whole:
                self._pause((stream, place if place.step < steps else Place(place.epoch + 1, 0)), loader)

    def close(self) -> None:
        """End the workers."""
        self._paused.clear()

    def _pause(self, key: Hashable, loader: Iterator[Any]) -> None:
        self._paused[key] = loader
        # At exit the loader waits five seconds for each worker, unless it has been closed before: the last
        # registered goes first.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
        while len(self._paused) > _MOST:
            del self._paused[next(iter(self._paused))]


@dataclass(frozen=True, eq=False)
class LoaderSplit:
    """A `Split` over images that are decoded when they are needed. `members` are its images' indices.

    In training, an image that cannot be read is replaced by the next one of its batch; in order, it is left
    out. `corrupt` names and counts them. Paused loaders are in `loaders`, which a data set's splits share.
    """

    images: Images
    members: Indices
    info: DataInfo
    settings: InputSettings
    device: torch.device
    augmented: bool
    corrupt: CorruptImages
    loaders: LoaderCache
    token: object = field(init=False, default_factory=object, repr=False)

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.members)

    def steps(self, batch_size: int) -> int:
        """Batches in one shuffled epoch."""
        return num_steps(self.num_images, batch_size)

    def shuffled(self, batch_size: int, epoch: Epoch, *, part: Part = WHOLE) -> Iterator[Batch]:
        """The batches of one epoch for training; see `Split`."""
        part.of_training(0, min(batch_size, self.num_images))
        epochs = Epochs(self.members, batch_size, epoch.seed, epoch.augment and self.augmented, part)
        place, steps, load = Place(epoch.number, epoch.start), self.steps(batch_size), self._loading
        if self.settings.workers == 0:  # nothing is prepared, so there is nothing to keep
            yield from itertools.islice(load(epochs.requests(place)), max(steps - epoch.start, 0))
            return
        stream = (self.token, *epochs[1:])
        yield from self.loaders.run(stream, place, steps, start=lambda at: load(epochs.requests(at)))

    def ordered(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """All images that can be read, in order, or `limit` spread over them, not augmented."""
        chosen = self.members[spread(self.num_images, limit)]
        starts = range(0, len(chosen), batch_size)
        shares = [part.of(s, min(s + batch_size, len(chosen))) for s in starts]
        parts = [chosen[share] for share in shares if share.start < share.stop]
        requests = (BatchRequest(each, 0, len(each), None, replace=False) for each in parts)
        for batch in self._loading(requests, workers=min(self.settings.workers, len(parts))):
            if len(batch[1]):
                yield batch

    def originals(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """The images of `ordered` as their files have them, those of one size that follow each other."""
        chosen = self.members[spread(self.num_images, limit)]
        starts = range(0, len(chosen), batch_size)
        shares = [chosen[part.of(s, min(s + batch_size, len(chosen)))] for s in starts]
        workers = min(self.settings.workers, len(shares))
        return original_batches(
            self.images,
            shares,
            background=self.info.background,
            workers=workers,
            corrupt=self.corrupt,
        )

    @property
    def _loading(self) -> Callable[..., Iterator[Batch]]:
        # Without a reference to the split, whose loaders may keep it: workers end with the last reference,
        # and are late to hear of it from the garbage collector.
        items = BatchDataset(self.images, self.info, self.settings)
        return partial(_load, items, settings=self.settings, device=self.device, corrupt=self.corrupt)


class Epochs(NamedTuple):
    """What decides the batches of a split, whatever the epoch."""

    members: Indices
    batch_size: int
    seed: int
    drawn: bool
    part: Part

    def requests(self, place: Place) -> Iterator[BatchRequest]:
        """Batch after batch, epoch after epoch, from `place` on, without end."""
        count, size, step = len(self.members), self.batch_size, place.step
        for epoch in itertools.count(place.epoch):
            order = self.members[epoch_order(count, seed=self.seed, epoch=epoch)]
            for first in range(step * size, num_steps(count, size) * size, size):
                batch = order[first : first + size]
                share = self.part.of_training(0, len(batch))
                draw = (self.seed, epoch, first) if self.drawn else None
                yield BatchRequest(batch, share.start, share.stop, draw, replace=True)
            step = 0


def _load(
    items: BatchDataset,
    requests: Iterator[BatchRequest],
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


# Splits of what a source has found.


def dataset_of(source: Source, *, settings: InputSettings, seed: int, device: torch.device) -> Dataset:
    """The splits of a source; a share of the training images, chosen by `seed`, is for search-validation.

    Raises `DataError` where there are too few images, or too many that cannot be read.
    """
    corrupt = CorruptImages(settings.max_corrupt)
    if source.memory_size is not None:
        size, info = source.memory_size, source.info
        to = _in_memory(info, size)
        train, test = (_pixels(part, to, settings, corrupt) for part in (source.train, source.test))
        return dataset_in_memory(
            info,
            train,
            test,
            augmentation=Augmentation.wanted(settings, info, side=min(size), flip=source.mirrored),
            val_fraction=settings.val_fraction,
            seed=seed,
            device=device,
            corrupt=corrupt,
        )
    assert isinstance(source.train, Images)
    assert isinstance(source.test, Images)
    return _decoding(source.info, source.train, source.test, settings, seed, device, corrupt)


def _in_memory(info: DataInfo, size: tuple[int, int]) -> Preprocessing:
    """How encoded images are decoded into memory, where all have `size`: as it is, or the network's."""
    if size == (info.height, info.width):
        return info.preprocessing
    return replace(info.preprocessing, height=size[0], width=size[1], resize_side=None)


def _pixels(
    part: Images | Pixels, to: Preprocessing, settings: InputSettings, corrupt: CorruptImages
) -> Arrays:
    if isinstance(part, Pixels):
        return torch.from_numpy(part.images), torch.from_numpy(part.labels)
    return decode_all(part, to, workers=settings.workers, corrupt=corrupt)


def _decoding(
    info: DataInfo,
    train: Images,
    test: Images,
    settings: InputSettings,
    seed: int,
    device: torch.device,
    corrupt: CorruptImages,
) -> Dataset:
    """A dataset that decodes its images as they are needed."""
    _require_images(info.name, train, test)
    members = spread(len(train.labels), None)
    everything = LoaderSplit(
        train,
        members,
        info,
        settings,
        device,
        augmented=settings.augment,
        corrupt=corrupt,
        loaders=LoaderCache(),
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
