"""What the rest of jstc sees of a dataset. No torch at import."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from jstc.core import files
from jstc.data.sampling import Indices
from jstc.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "WHOLE",
    "Batch",
    "CorruptImages",
    "DataInfo",
    "Dataset",
    "Names",
    "Part",
    "Split",
    "corrupt_file",
    "resize_side",
]

# Images that cannot be read: named, counted, left out up to a limit. No torch here.

_SHOWN = 5
_MOST_BYTES = 256 * 2**20


def corrupt_file(rank: int = 0) -> str:
    """The name of the file in a run directory that lists them: each of several processes has its own."""
    return "corrupt.jsonl" if rank == 0 else f"corrupt-{rank}.jsonl"


class CorruptImages:
    """The images of a data set that could not be read, each once, and why; at most `limit` of them."""

    def __init__(self, limit: int = 100) -> None:
        self.limit = limit
        self.found: dict[str, str] = {}
        self._path: Path | None = None

    def keep_in(self, path: Path) -> None:
        """Write them to `path`, one JSON document a line, as they are found; those there count as found."""
        self._path = path
        unwritten = dict(self.found)
        for where, reason in _read(path):
            self.found.setdefault(where, reason)
            unwritten.pop(where, None)
        for where, reason in unwritten.items():
            self._write(where, reason)

    def add(self, images: Iterable[tuple[str, str]]) -> None:
        """Count images (where, reason). Raises `DataError` when there are more than `limit`."""
        new = [(where, reason) for where, reason in images if where not in self.found]
        for where, reason in new:
            self.found[where] = reason
            self._write(where, reason)
        if new and len(self.found) > self.limit:
            raise DataError(self._too_many())

    def _too_many(self) -> str:
        first = "; ".join(f"{where}: {reason}" for where, reason in list(self.found.items())[:_SHOWN])
        more = "; ..." if len(self.found) > _SHOWN else ""
        known = f"; all are in {self._path}" if self._path else ""
        return (
            f"{len(self.found)} images cannot be read, input.max_corrupt allows {self.limit}: "
            f"{first}{more}{known}"
        )

    def _write(self, where: str, reason: str) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps({"image": where, "reason": reason}) + "\n")


def _read(path: Path) -> Iterable[tuple[str, str]]:
    """Lines that can be understood: the last one may have been cut off, and is found again."""
    if not path.is_file():
        return
    for line in files.read_bytes(path, limit=_MOST_BYTES).decode("utf-8", "replace").splitlines():
        try:
            entry = files.parse_json(line, where=str(path))
            yield str(entry["image"]), str(entry["reason"])
        except (ValueError, KeyError, TypeError):
            continue


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_MARGIN = 256 / 224  # evaluation looks at the central part of a photograph, as is the field's habit

# images float32 [N, C, H, W], normalised; labels int64 [N]
Batch = tuple["Tensor", "Tensor"]


def resize_side(height: int, width: int) -> int:
    """The shorter side of photographs before the middle, height x width, is cut out of them."""
    return round(max(height, width) * _MARGIN)


@dataclass(frozen=True)
class DataInfo:
    """A dataset's form: class names in label order, the shape of an image, and its normalisation.

    A pixel x in [0, 1] of channel c reaches the network as (x - mean[c]) / std[c]. For evaluation, the
    shorter side of an image is brought to `resize_side` pixels and the middle is cut out; None: it is
    stretched.
    """

    name: str
    labels: tuple[str, ...]
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_side: int | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width of one image."""
        return self.channels, self.height, self.width


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
        """The same, where no process can do without an image. Raises `DataError`."""
        if stop - start < self.world:
            raise DataError(f"a batch of {stop - start} images is too small for {self.world} processes")
        return self.of(start, stop)


WHOLE = Part()


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
        """One epoch for training, from batch `start` on.

        Order and augmentation are a pure function of (seed, epoch, batch): starting later yields exactly
        the batches that the whole epoch has there. Every part has as many batches, none of them empty;
        `DataError` where there are fewer images than parts.
        """

    def ordered(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """All images in order, not augmented; with `limit`, that many, spread evenly over the split.

        An empty share of a last, incomplete batch is left out, so parts can differ by one batch.
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
            feeds = getattr(split, "feeds", None)
            if feeds is not None:
                feeds.close()


# A million names in two arrays. No torch here.


@dataclass(frozen=True, eq=False)
class Names:
    """Byte strings by index.

    A worker process shares arrays with its parent for good; of a list it would copy every object that it
    touches, because that counts references. `text` holds all of them in a row, `ends` where each one ends.
    """

    text: NDArray[np.uint8]
    ends: Indices

    @classmethod
    def pack(cls, names: Sequence[bytes]) -> Names:
        """The same names, packed."""
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        return cls(np.frombuffer(b"".join(names), dtype=np.uint8), ends)

    @classmethod
    def joined(cls, parts: Sequence[Names]) -> Names:
        """All names of `parts`, in order."""
        if not parts:
            return cls.pack([])
        starts = np.cumsum([0] + [len(part.text) for part in parts[:-1]])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=True)]
        return cls(np.concatenate([part.text for part in parts]), np.concatenate(ends).astype(np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        start = self.ends[index - 1] if index else 0
        return self.text[start : self.ends[index]].tobytes()
