"""Who is in which split and which batch, and names by number: no images, no torch.

Every choice is a pure function of a seed and of what is chosen; no global random state takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jstc.core.seeds import derive

__all__ = [
    "Indices",
    "PackedStrings",
    "epoch_order",
    "num_steps",
    "scattered",
    "set_aside",
    "spread",
    "stratified",
]

Indices = NDArray[np.int64]

_TEST_SEED = 0  # of what is set aside as test split, never of the run: every run is judged on the same


def num_steps(num_images: int, batch_size: int) -> int:
    """Batches in one shuffled epoch; a split smaller than a batch gives one of all its images."""
    return max(1, num_images // batch_size)


def epoch_order(num_images: int, *, seed: int, epoch: int) -> Indices:
    """The order of the images in one epoch."""
    keys = np.random.default_rng(derive(seed, "order", epoch)).random(num_images)
    return np.argsort(keys, kind="stable").astype(np.int64)


def spread(num_images: int, limit: int | None) -> Indices:
    """Sorted indices of `limit` images spread evenly over all; of all of them without a limit.

    In a split sorted by class that is as balanced as the split itself.
    """
    if limit is None or limit >= num_images:
        return np.arange(num_images, dtype=np.int64)
    return np.arange(limit, dtype=np.int64) * num_images // limit


def scattered(num_images: int, wanted: int, *, seed: int = 0) -> Indices:
    """Sorted indices of `wanted` images, or all: one at random of each of as many stretches of equal length.

    What repeats at a regular distance is not missed by them, as it may be by `spread`.
    """
    if wanted >= num_images:
        return np.arange(num_images, dtype=np.int64)
    ends = np.arange(wanted + 1, dtype=np.int64) * num_images // wanted
    return np.random.default_rng(derive(seed, "sample")).integers(ends[:-1], ends[1:])


def set_aside(labels: Indices, fraction: float) -> tuple[Indices, Indices]:
    """Split into training and test images, both sorted, as `stratified` does: the same in every run."""
    return stratified(labels, fraction, seed=_TEST_SEED)


def stratified(labels: Indices, fraction: float, *, seed: int) -> tuple[Indices, Indices]:
    """Split into (rest, chosen), both sorted, so that `chosen` has about `fraction` of every class.

    Shares are rounded by largest remainder, ties at random; a class gives its last image only when
    nothing else is left to give, as when there is one image per class. Both parts have an image, given two.
    """
    num_images = len(labels)
    rng = np.random.default_rng(derive(seed, "split"))
    classes, class_of, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    total = min(max(round(fraction * num_images), 1), num_images - 1)
    quotas = _quotas(sizes, total, rng.random(len(classes)))
    order = np.lexsort((rng.random(num_images), class_of))  # by class, within it at random
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.arange(num_images) - starts
    chosen = rank < quotas[class_of[order]]
    return np.sort(order[~chosen]).astype(np.int64), np.sort(order[chosen]).astype(np.int64)


def _quotas(sizes: Indices, total: int, ties: NDArray[np.float64]) -> Indices:
    exact = sizes * (total / sizes.sum())
    quotas: Indices = np.floor(exact).astype(np.int64)
    emptied = quotas + 1 >= sizes
    first = np.lexsort((ties, quotas - exact, emptied))
    quotas[first[: total - int(quotas.sum())]] += 1
    return quotas


# A million names in two arrays.


@dataclass(frozen=True, eq=False)
class PackedStrings:
    """Byte strings by index.

    A worker process shares arrays with its parent for good; of a list it would copy every object that it
    touches, because that counts references. `text` holds all of them in a row, `ends` where each one ends.
    """

    text: NDArray[np.uint8]
    ends: Indices

    @classmethod
    def pack(cls, names: Sequence[bytes]) -> PackedStrings:
        """Pack `names`, in order."""
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        return cls(np.frombuffer(b"".join(names), dtype=np.uint8), ends)

    @classmethod
    def joined(cls, parts: Sequence[PackedStrings]) -> PackedStrings:
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
