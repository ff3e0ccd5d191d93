"""Data that are given from Python, as splits.

Float tensors reach the network as they are. Pixels are prepared as the recipe's `input` section says, as
images of the command line are; Pillow images are augmented, too.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import pickle
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from jstc.core.seeds import derive
from jstc.data import transforms
from jstc.data.base import GIVEN, WHOLE, Batch, DataInfo, Dataset, Epoch, Part, Split, photographs
from jstc.data.decoding import in_workers
from jstc.data.given_items import Items, Looked, look, picture
from jstc.data.in_memory import normalise
from jstc.data.loader import BatchRequest, Epochs, LoaderCache, Place
from jstc.data.sampling import num_steps, spread
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = ["GivenBatches", "GivenData", "GivenSplit", "as_split"]


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Start the random numbers of torch, numpy and Python at `seed` in the block; then they are as before."""
    numpy_state, own = np.random.get_state(), random.getstate()
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        with transforms.seeded(seed):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(own)


# Splits.

_LABELS_SEEN = 128


class GivenBatches(TorchDataset[Batch]):
    """Batches of `items`, one for each request, for whichever process: images [N, C, H, W], labels int64 [N].

    Images are uint8 where they are pixels, otherwise float32. What is random in reading one is a function of
    the request: of seed, epoch and place in training, and of the image's number otherwise.
    """

    def __init__(self, items: Items, looked: Looked, info: DataInfo, settings: InputSettings) -> None:
        self.items, self.looked, self.info = items, looked, info
        self.augmented = settings.augment and looked.pictures
        self.for_evaluation = transforms.for_evaluation(info)
        self.for_training = transforms.for_training(info, settings) if self.augmented else self.for_evaluation

    def __getitems__(self, request: BatchRequest) -> Batch:
        found = [self._at(request, position) for position in range(request.start, request.stop)]
        images, labels = zip(*found, strict=True)
        return torch.stack(images), torch.tensor(labels, dtype=torch.int64)

    def _at(self, request: BatchRequest, position: int) -> tuple[Tensor, int]:
        index, draw = int(request.images[position]), request.draw
        if not self.looked.random and (draw is None or not self.augmented):
            return self._item(index, training=False)
        if draw is None:
            seed = derive(0, "given", index)
        else:
            seed = derive(draw[0], "augment", draw[1], draw[2] + position)
        with _seeded(seed) if self.looked.random else transforms.seeded(seed):
            return self._item(index, training=draw is not None)

    def _item(self, index: int, *, training: bool) -> tuple[Tensor, int]:
        image, label = self.items.read(index)
        if not 0 <= label < self.info.num_classes:
            _require_label(self._where(index), label, self.info.num_classes)
        if self.looked.pixels:
            prepared = self.for_training if training else self.for_evaluation
            return prepared(self._picture(image, self._where(index))), label
        tensor = torch.as_tensor(image).detach().to(torch.float32)
        if tensor.shape != self.looked.shape:
            where = self._where(index)
            raise DataError(f"{where} is {list(tensor.shape)}, the first {list(self.looked.shape)}")
        return tensor, label

    def _where(self, index: int) -> str:
        return f"{self.items.name}: image {index}"

    def original(self, index: int) -> tuple[Tensor, int]:
        """An image as bytes [C, H, W], before it is prepared; of a tensor, a guess at what it was made of."""
        image, label = self.items.read(index)
        if not self.looked.pixels:
            return (torch.as_tensor(image).float() * 255).round().clamp(0, 255).to(torch.uint8), label
        pixels = np.asarray(self._picture(image, self._where(index)))
        return torch.from_numpy(np.atleast_3d(pixels).transpose(2, 0, 1).copy()), label

    def _picture(self, image: Any, where: str) -> Image.Image:
        return picture(image, "L" if self.info.channels == 1 else "RGB", self.info.background, where)


@dataclass(frozen=True, eq=False)
class GivenSplit:
    """A `Split` of what `batches` gives, read by `workers` processes, or none."""

    batches: GivenBatches
    device: torch.device
    workers: int = 0
    prefetch: int = 2
    loaders: LoaderCache = field(default_factory=LoaderCache)
    token: object = field(init=False, default_factory=object, repr=False)

    @property
    def num_images(self) -> int:
        """Number of images."""
        return len(self.batches.items)

    def steps(self, batch_size: int) -> int:
        """Batches in one shuffled epoch."""
        return num_steps(self.num_images, batch_size)

    def shuffled(self, batch_size: int, epoch: Epoch, *, part: Part = WHOLE) -> Iterator[Batch]:
        """The batches of one epoch for training; see `Split`."""
        part.of_training(0, min(batch_size, self.num_images))
        epochs = Epochs(spread(self.num_images, None), batch_size, epoch.seed, epoch.augment, part)
        place, steps = Place(epoch.number, epoch.start), self.steps(batch_size)
        if not self.workers:
            yield from itertools.islice(self._load(epochs.requests(place)), max(steps - epoch.start, 0))
            return
        stream = (self.token, *epochs[1:])
        yield from self.loaders.run(stream, place, steps, start=lambda at: self._load(epochs.requests(at)))

    def ordered(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """All images in order, or `limit` spread over them."""
        shares = self._shares(batch_size, limit, part)
        requests = (BatchRequest(share, 0, len(share), None, replace=False) for share in shares)
        yield from self._load(requests, workers=min(self.workers, len(shares)))

    def originals(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """The images of `ordered` as bytes: what tensors were made of, a Dataset does not say."""
        for share in self._shares(batch_size, limit, part):
            for index in share.tolist():
                image, label = self.batches.original(index)
                yield image[None], torch.tensor([label])

    def _shares(self, batch_size: int, limit: int | None, part: Part) -> list[Any]:
        chosen = spread(self.num_images, limit)
        starts = range(0, len(chosen), batch_size)
        shares = [chosen[part.of(s, min(s + batch_size, len(chosen)))] for s in starts]
        return [share for share in shares if len(share)]

    def _load(self, requests: Iterator[BatchRequest], workers: int | None = None) -> Iterator[Batch]:
        return _loaded(
            self.batches,
            requests,
            device=self.device,
            workers=self.workers if workers is None else workers,
            prefetch=self.prefetch,
        )


def _loaded(
    batches: GivenBatches,
    requests: Iterator[BatchRequest],
    *,
    device: torch.device,
    workers: int,
    prefetch: int,
) -> Iterator[Batch]:
    # Without a reference to the split, as in `loader`: its loaders keep this.
    pinned = device.type == "cuda" and batches.looked.on_cpu
    found = in_workers(batches, requests, workers=workers, prefetch=prefetch, pin_memory=pinned)
    for answer in found:
        images, labels = (tensor.to(device, non_blocking=True) for tensor in answer)
        yield (normalise(images, batches.info) if batches.looked.pixels else images), labels


@dataclass(frozen=True)
class GivenData:
    """Data for training, for the search's own choices and for the reported accuracy, each looked at.

    A `Split` of jstc stands for itself.
    """

    train: Items | Split
    val: Items | Split
    test: Items | Split
    looked: Mapping[str, Looked]

    @classmethod
    def of(
        cls, train: Any, val: Any, test: Any = None, *, say: Callable[[str], None] = lambda _: None
    ) -> GivenData:
        """`test` None: `val` serves for both. Raises `DataError` for what cannot be trained on."""
        found = {"train_data": train, "val_data": val} | ({} if test is None else {"test_data": test})
        parts = {
            name: data if _is_split(data) else Items.of(data, name, say=say) for name, data in found.items()
        }
        looked = {name: look(part) for name, part in parts.items() if isinstance(part, Items)}
        given = cls(parts["train_data"], parts["val_data"], parts.get("test_data", parts["val_data"]), looked)
        _require_one_form(looked)
        return given

    @property
    def pixels(self) -> bool:
        """Whether the images are prepared here, and not tensors already."""
        return any(each.pixels for each in self.looked.values())

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, where the data have them.

        Raises `DataError` where a number stands for one class here and for another there.
        """
        parts = [part for part in (self.train, self.val, self.test) if isinstance(part, Items)]
        named = [(part.name, part.classes) for part in parts if part.classes]
        for (name, names), (other, others) in itertools.pairwise(named):
            for number, (one, another) in enumerate(zip(names or (), others or (), strict=False)):
                if one != another:
                    raise DataError(
                        f"class {number} of {name} is {one!r}, that of {other} {another!r}",
                        "both must number the classes alike; where they do, name them: labels=[...]",
                    )
        return named[0][1] if named else None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image, as it is given."""
        if "val_data" in self.looked:
            return self.looked["val_data"].shape
        assert not isinstance(self.val, Items)
        images, _ = next(iter(self.val.ordered(1, limit=1)))
        return tuple(images.shape[1:])  # type: ignore[return-value]

    @property
    def grey(self) -> bool:
        """Whether no pixels seen have colours."""
        return all(shape[0] == 1 for each in self.looked.values() for shape in each.shapes.values())

    def info(
        self, labels: Sequence[str], settings: InputSettings, *, channels: int | None = None
    ) -> DataInfo:
        """The form of the data; images that are prepared here get `channels`, 1 or 3."""
        if not self.pixels:
            of, height, width = self.shape
            return DataInfo(GIVEN, tuple(labels), of, height, width, (0.0,) * of, (1.0,) * of)
        sizes = [shape[1:] for each in self.looked.values() for shape in each.shapes.values()]
        info = photographs(GIVEN, labels, sizes, settings)
        if channels != 1:
            return info
        mean, std = (sum(figures) / len(figures) for figures in (info.mean, info.std))
        return replace(info, channels=1, mean=(mean,), std=(std,))

    def require_labels(self, num_classes: int) -> None:
        """Raise `DataError` for a label seen that is not a number of a class: the loss would stop at it."""
        for name, each in self.looked.items():
            for index, label in sorted(each.labels.items()):
                _require_label(f"{name}: image {index}", label, num_classes)
        for part in (self.train, self.val):
            if not isinstance(part, Items):
                for _, labels in part.ordered(_LABELS_SEEN, limit=_LABELS_SEEN):
                    for label in labels.tolist():
                        _require_label("an image", label, num_classes)

    def dataset(self, info: DataInfo, settings: InputSettings, device: torch.device) -> Dataset:
        """The splits: all of `train` is trained on."""
        made: dict[int, Split] = {}

        def split(part: Items | Split) -> Split:
            if not isinstance(part, Items):
                return part
            if id(part) not in made:
                made[id(part)] = as_split(part, device, info, settings, self.looked[part.name])
            return made[id(part)]

        train, val, test = split(self.train), split(self.val), split(self.test)
        return Dataset(info=info, train=train, search_val=val, train_full=train, test=test)


def as_split(
    items: Items, device: torch.device, info: DataInfo, settings: InputSettings, looked: Looked | None = None
) -> GivenSplit:
    """The split of a Dataset, whose images are prepared as `info` says, where that is left to us."""
    looked = looked or look(items)
    workers = settings.workers if looked.slow and looked.on_cpu and _can_travel(items.data) else 0
    return GivenSplit(GivenBatches(items, looked, info, settings), device, workers, settings.prefetch)


def _require_label(where: str, label: int, num_classes: int) -> None:
    if not 0 <= label < num_classes:
        raise DataError(
            f"{where} has the label {label}; the network gives {num_classes} scores, for the classes 0 to "
            f"{num_classes - 1}"
        )


def _is_split(data: Any) -> bool:
    return hasattr(data, "shuffled") and hasattr(data, "ordered")


def _can_travel(data: Any) -> bool:
    """Whether other processes can have the Dataset: forked ones always, others when it can be pickled."""
    # Asking for the one in use would settle it for the whole process.
    started = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if started == "fork":
        return True
    try:
        pickle.dumps(data)
    except Exception:  # whatever the user's own classes raise
        return False
    return type(data).__module__ != "__main__"  # a notebook's own class is known there alone


def _require_one_form(looked: Mapping[str, Looked]) -> None:
    for (name, one), (other, another) in itertools.pairwise(looked.items()):
        if one.pixels != another.pixels:
            words = {True: "images that are prepared here (pixels)", False: "tensors"}
            raise DataError(
                f"{name} gives {words[one.pixels]}, {other} {words[another.pixels]}", "give both the same way"
            )
        if not one.pixels and one.shape[0] != another.shape[0]:
            raise DataError(f"{name} gives images of {one.shape[0]} channels, {other} of {another.shape[0]}")
