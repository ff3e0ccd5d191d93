"""A dataset as the rest of jstc sees it: its form, its splits, their batches. No torch at import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from jstc.core.preprocessing import BACKGROUNDS, Colour, Interpolation, Preprocessing, resize_side
from jstc.data.images import CorruptImages, Images, Pixels
from jstc.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from jstc.recipe.schema import InputSettings

__all__ = [
    "GIVEN",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "WHOLE",
    "Batch",
    "DataInfo",
    "Dataset",
    "Epoch",
    "Part",
    "SizeFrom",
    "Source",
    "Split",
    "background_of",
    "middle_of",
    "photographs",
    "resize_side",
    "side_of",
    "size_of",
]

GIVEN = "given"
"""What recipes call data that are given from Python; no data set can be loaded by that name."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# images float32 [N, C, H, W], normalised; labels int64 [N]
Batch = tuple["Tensor", "Tensor"]


SizeFrom = Literal["recipe", "images", "data set", "nothing"]

_SMALL_SIDE = 96
_PHOTOGRAPH_SIDE = 224


def size_of(sizes: Iterable[tuple[int, int]], asked: tuple[int, int] | None) -> tuple[int, int, SizeFrom]:
    """Height and width for a network, by those of some images and the recipe, and which of them it is by.

    Small images that all have one size keep it.
    """
    if asked is not None:
        return (*asked, "recipe")
    found = set(sizes)
    if len(found) == 1 and max(own := next(iter(found))) <= _SMALL_SIDE:
        return (*own, "images")
    return _PHOTOGRAPH_SIDE, _PHOTOGRAPH_SIDE, "nothing"


def background_of(settings: InputSettings) -> Colour | None:
    """The colour under transparent images, in bytes; None: what is transparent of them is dropped."""
    ground = settings.background
    return BACKGROUNDS[ground] if isinstance(ground, str) else ground


def side_of(settings: InputSettings, own: int) -> tuple[int, SizeFrom]:
    """Side for a network, where the data set itself has one, and which of the two it is by.

    Raises `DataError` for a size that is not square, as the images are.
    """
    if settings.size is None:
        return own, "data set"
    height, width = settings.size
    if height != width:
        raise DataError(f"images of {own}x{own} stay square: they are not prepared as {height}x{width}")
    return height, "recipe"


def middle_of(height: int, width: int, by: SizeFrom) -> int | None:
    """Shorter side to which images are resized before their middle is cut out; None: they are stretched.

    A square can be cut out of any image; of a size that is asked for, and is none, most would be lost.
    """
    return None if by == "recipe" and height != width else resize_side(height, width)


@dataclass(frozen=True)
class DataInfo:
    """A dataset's form: class names in label order, and how its images become what a network takes.

    For the latter see `Preprocessing`, whose figures stand here one by one. `size_from` says where height and
    width come from; "nothing" is a guess for images of several sizes, or of large ones.
    `notes` are sentences on what the look at the data before the run has found.
    """

    name: str
    labels: tuple[str, ...]
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_side: int | None = None
    interpolation: Interpolation = "bilinear"
    size_from: SizeFrom = "data set"
    background: Colour | None = None
    notes: tuple[str, ...] = ()

    @property
    def preprocessing(self) -> Preprocessing:
        """The definition by which an image becomes what a network takes."""
        return Preprocessing(
            self.height,
            self.width,
            self.mean,
            self.std,
            self.resize_side,
            self.interpolation,
            self.background,
        )

    def prepared_as(self, other: Preprocessing) -> DataInfo:
        """The data set with its images prepared another way."""
        return replace(
            self,
            height=other.height,
            width=other.width,
            mean=other.mean,
            std=other.std,
            resize_side=other.resize_side,
            interpolation=other.interpolation,
            background=other.background,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        return self.channels, self.height, self.width


def photographs(
    name: str,
    labels: Sequence[str],
    sizes: Iterable[tuple[int, int]],
    settings: InputSettings,
    *,
    notes: Iterable[str] = (),
) -> DataInfo:
    """The form of a data set of images as people have them, by the height and width of some of them."""
    height, width, by = size_of(sizes, settings.size)
    side = middle_of(height, width, by)
    return DataInfo(
        name,
        tuple(labels),
        3,
        height,
        width,
        IMAGENET_MEAN,
        IMAGENET_STD,
        side,
        size_from=by,
        background=background_of(settings),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class Source:
    """The images of a data set as its files have them, for `datasets.load` to make splits of.

    With `memory_size` (height, width) all of them live decoded in memory, at that size; without, they are
    read and decoded as they are needed. `mirrored`: is a mirrored image still of its class?
    """

    info: DataInfo
    train: Images | Pixels
    test: Images | Pixels
    memory_size: tuple[int, int] | None = None
    mirrored: bool = True


class Part(NamedTuple):
    """What one of `world` processes takes of every batch: a contiguous share, the `rank`-th.

    The shares of all ranks together are the batch, each image once. They differ by one image at most.
    """

    rank: int = 0
    world: int = 1

    def of(self, start: int, stop: int) -> slice:
        """The share of a batch that has the positions from `start` up to `stop`."""
        first, last = ((stop - start) * rank // self.world for rank in (self.rank, self.rank + 1))
        return slice(start + first, start + last)

    def of_training(self, start: int, stop: int) -> slice:
        """The share of a batch in training, where no process can do without an image. Raises `DataError`."""
        if stop - start < self.world:
            raise DataError(f"a batch of {stop - start} images is too small for {self.world} processes")
        return self.of(start, stop)


WHOLE = Part()


@dataclass(frozen=True)
class Epoch:
    """One pass over a split in training, from batch `start` on; `augment`: are its images changed at random?

    Order and augmentation are a pure function of seed, number and batch: starting later gives exactly the
    batches that the whole epoch has there.
    """

    seed: int
    number: int
    start: int = 0
    augment: bool = True


class Split(Protocol):
    """Images with labels, in batches on the device.

    Images are float32 [N, C, H, W], normalised; labels int64 [N]. `batch_size` is that of all processes
    together, of which one gets its `part`: the same images, with the same augmentation, that it would see
    as a slice of the whole batch.
    """

    @property
    def num_images(self) -> int:
        """Number of images."""

    def steps(self, batch_size: int) -> int:
        """Batches in one shuffled epoch: an incomplete one is dropped, unless it is the only one."""

    def shuffled(self, batch_size: int, epoch: Epoch, *, part: Part = WHOLE) -> Iterator[Batch]:
        """The batches of one epoch for training.

        Every part has as many batches, none of them empty; `DataError` where there are fewer images than
        parts.
        """

    def ordered(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """All images in order, not augmented; with `limit`, that many, spread evenly over the split.

        An empty share of a last, incomplete batch is left out, so parts can differ by one batch.
        """

    def originals(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """The images of `ordered`, in its order, as their files have them: uint8 [n, C, H, W] of any size.

        Consecutive images of one size make a batch, of `batch_size` at most.
        """


@dataclass(frozen=True)
class Dataset:
    """The splits of a dataset.

    `train` is for weights and `search_val` for what is searched; together they are `train_full`.
    `test` is for reporting: nothing is chosen by it. `corrupt` are the images that could not be read.
    """

    info: DataInfo
    train: Split
    search_val: Split
    train_full: Split
    test: Split
    corrupt: CorruptImages = field(default_factory=CorruptImages)

    def close(self) -> None:
        """End the processes that wait, with batches, for the training to go on. It may still go on."""
        for split in (self.train, self.search_val, self.train_full, self.test):
            loaders = getattr(split, "loaders", None)
            if loaders is not None:
                loaders.close()
