"""WebDataset: images in tar files. No torch here.

A shard is read through once, for an index of its samples; after that every image can be read alone, so that
order and resumption are those of an image tree. Nothing in a shard is unpickled, run, or written to disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from jstc.core import files
from jstc.data.base import DataInfo, Source, photographs
from jstc.data.images import Encoded, Images, UnreadableImageError
from jstc.data.looks import LOOKED_AT, Seen, left_out_note, look_at, notes_on, set_aside_note, unread_note
from jstc.data.sampling import Indices, PackedStrings, scattered, set_aside, spread
from jstc.data.sources.shards import WHERE, ShardIndex, Shards, class_names, find, index_of, is_kept
from jstc.errors import DataError
from jstc.recipe.schema import InputSettings

__all__ = ["WHERE", "check", "load"]

_SHARDS_LOOKED_INTO = 4
_MOST_IMAGE_BYTES = 2**30
_MOST_CLASSES = 1_000_000


def check(root: Path, settings: InputSettings) -> DataInfo:
    """Find what is wrong by the shards' names, the classes, and a sample of images.

    Raises `DataError`.
    """
    shards = find(root)
    labels = class_names(shards) or _names_in_labels(shards, settings)
    left_out: Counter[str] = Counter()
    seen = [
        _look_into(split, settings, left_out, places)
        for split, places in zip(("training", "test"), shards[:2], strict=True)
        if places
    ]
    sizes = [size for each in seen for size in each.sizes]
    others = left_out_note(left_out)
    unread = unread_note([Path(shard).name for shard in shards.unread])
    notes = [note for note in (unread, others, None if shards.test else set_aside_note(settings)) if note]
    notes += notes_on(seen, settings)
    return photographs("webdataset", labels, sizes, settings, notes=notes)


def load(root: Path, settings: InputSettings, *, say: Callable[[str], None]) -> Source:
    """Shards, whose images are decoded as they are needed."""
    info, shards = check(root, settings), find(root)
    train_paths, test_paths = ([Path(place) for place in places] for places in shards[:2])
    new = [path for path in train_paths + test_paths if not is_kept(path, _cache(settings))]
    if new:
        say(f"reading {len(new):,} shards through, once, to find their images")
    train = _images(train_paths, info.labels, settings)
    if test_paths:
        return Source(info, train, _images(test_paths, info.labels, settings))
    rest, test = set_aside(train.labels, settings.test_fraction)
    return Source(info, train.picked(rest), train.picked(test))


def _cache(settings: InputSettings) -> Path:
    return settings.cache or files.cache_folder()


def _names_in_labels(shards: Shards, settings: InputSettings) -> tuple[str, ...]:
    """Class names without a list: 0, 1, 2 ... up to the largest label, or the names that occur, sorted."""
    indices = [index_of(Path(place), _cache(settings)) for place in shards.train]
    found = {index.labels[n].decode() for index in indices for n in range(len(index.labels))}
    if not found:
        raise DataError(f"dataset 'webdataset': no images with labels in {shards.train[0]}")
    if not all(label.isdecimal() for label in found):
        return tuple(sorted(found))
    most = max(map(int, found))
    if most >= _MOST_CLASSES:
        raise DataError(f"dataset 'webdataset': the greatest label is {most}; expected 0, 1, 2 ...")
    return tuple(map(str, range(most + 1)))


def _look_into(split: str, settings: InputSettings, left_out: Counter[str], places: Sequence[str]) -> Seen:
    """A look at some images of some shards; counts the files that are left out. Raises `DataError`."""
    looked = [Path(places[n]) for n in spread(len(places), _SHARDS_LOOKED_INTO)]
    indices = [index_of(path, _cache(settings)) for path in looked]
    members = _Members.of(looked, indices)
    for index in indices:
        left_out.update(index.left_out)
    if not len(members.offsets):
        raise DataError(f"dataset 'webdataset': no images in {looked[0]}; images end in .jpg, .png ...")
    sample = [partial(members, int(n)) for n in scattered(len(members.offsets), LOOKED_AT)]
    images = len(members.offsets) * len(places) // len(looked)
    return look_at("webdataset", split, sample, images=images, settings=settings)


@dataclass(frozen=True, eq=False)
class _Members:
    """Reads image `index` out of the shard that holds it."""

    paths: tuple[Path, ...]
    shard: Indices
    offsets: Indices
    sizes: Indices
    names: PackedStrings

    @classmethod
    def of(cls, paths: Sequence[Path], indices: Sequence[ShardIndex]) -> _Members:
        """All images of the shards, in order."""
        counts = [len(index.offsets) for index in indices]
        return cls(
            tuple(paths),
            np.repeat(np.arange(len(paths), dtype=np.int64), counts),
            np.concatenate([index.offsets for index in indices]),
            np.concatenate([index.sizes for index in indices]),
            PackedStrings.joined([index.names for index in indices]),
        )

    def __call__(self, index: int) -> Encoded:
        path, size = self.paths[self.shard[index]], int(self.sizes[index])
        where = f"{self.names[index].decode('utf-8', 'replace')} of {path}"
        if size > _MOST_IMAGE_BYTES:
            raise UnreadableImageError(where, f"{size / 2**30:.1f} GiB is too large")
        try:
            with files.open_regular(path) as file:
                file.seek(int(self.offsets[index]))
                data = file.read(size)
        except OSError as error:
            raise UnreadableImageError(where, str(error)) from None
        return Encoded(data, where)


def _images(paths: list[Path], names: tuple[str, ...], settings: InputSettings) -> Images:
    indices = [index_of(path, _cache(settings)) for path in paths]
    known = {name: number for number, name in enumerate(names)}
    labels = [_numbers(index, path, known) for index, path in zip(indices, paths, strict=True)]
    return Images(_Members.of(paths, indices), np.concatenate(labels))


def _numbers(index: ShardIndex, path: Path, known: dict[str, int]) -> Indices:
    """Labels int64 [N] of a shard's samples: numbers as they are, names by the list of classes."""
    numbers = np.empty(len(index.labels), dtype=np.int64)
    for n in range(len(numbers)):
        label = index.labels[n].decode()
        found = int(label) if label.isdecimal() and len(label) < 19 else known.get(label, -1)
        if not 0 <= found < len(known):
            name = index.names[n].decode("utf-8", "replace")
            shown = ", ".join(list(known)[:3]) + (" ..." if len(known) > 3 else "")
            raise DataError(
                f"dataset 'webdataset': {name} of {path} has label {label!r}; expected a number below "
                f"{len(known)}, or one of the classes: {shown}"
            )
        numbers[n] = found
    return numbers
