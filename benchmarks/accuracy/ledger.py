"""The equal-training rule as arithmetic: images x FLOPs, paid phase by phase; counting and timing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from jstc.data import WHOLE, Epoch, Part, Split
from jstc.data.base import Batch
from jstc.errors import StageError

__all__ = ["FORWARD", "Clock", "CountedSplit", "Ledger"]

FORWARD = 1 / 3
"""A forward pass alone, as a part of a training step: the backward pass costs two of it."""


@dataclass
class Ledger:
    """What a method may spend and has spent: an image costs the FLOPs of the network that trains on it.

    `epoch` is one epoch of the target network over the training images used.
    """

    epoch: int
    epochs: float
    spent: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """All that may be spent, in images x FLOPs."""
        return self.epochs * self.epoch

    @property
    def left(self) -> float:
        """The part that is not spent yet."""
        return self.total - sum(self.spent.values())

    def pay(self, phase: str, cost: float) -> None:
        """Spend images x FLOPs. Raises `StageError` where that is more than is left."""
        if cost > self.left * (1 + 1e-9):
            raise StageError(
                f"{phase} costs {cost / self.epoch:.3f} epochs' worth; of {self.epochs:g} there are "
                f"{self.left / self.epoch:.3f} left"
            )
        self.spent[phase] = self.spent.get(phase, 0.0) + cost

    def steps(self, flops: float, batch: int, *, share: float | None = None) -> int:
        """Training steps of `batch` images that can be paid from what is left, or from a share of all.

        Raises `StageError` where there is not one.
        """
        most = self.left if share is None else min(self.left, share * self.total)
        steps = int(most * (1 + 1e-12) / (batch * flops))
        if steps < 1:
            raise StageError(
                f"{most / self.epoch:.3f} epochs' worth is less than one step of {batch} images; "
                "raise --epochs or --images"
            )
        return steps

    def to_dict(self) -> dict[str, Any]:
        """A JSON document: totals in images x FLOPs, and in epochs' worth."""
        spent = sum(self.spent.values())
        return {
            "image_flops": {"allowed": self.total, "spent": spent, **self.spent},
            "epochs": {
                "allowed": self.epochs,
                "spent": spent / self.epoch,
                **{phase: cost / self.epoch for phase, cost in self.spent.items()},
            },
        }


@dataclass
class Clock:
    """Wall-clock and processor seconds by phase."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as part of the phase `name`."""
        _wait()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        _wait()
        self.add(name, wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)

    def add(self, name: str, *, wall: float, cpu: float) -> None:
        """Add seconds that were measured elsewhere."""
        self.wall[name] = self.wall.get(name, 0.0) + wall
        self.cpu[name] = self.cpu.get(name, 0.0) + cpu

    def to_dict(self) -> dict[str, Any]:
        """A JSON document."""
        return {
            name: {**{k: round(v, 3) for k, v in each.items()}, "all": round(sum(each.values()), 3)}
            for name, each in (("wall", self.wall), ("cpu", self.cpu))
        }


class CountedSplit:
    """A `Split` that counts the images which are judged on it, not those that are trained on."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self.judged = 0

    @property
    def num_images(self) -> int:
        """Number of images."""
        return self._split.num_images

    def steps(self, batch_size: int) -> int:
        """Batches in one shuffled epoch."""
        return self._split.steps(batch_size)

    def shuffled(self, batch_size: int, epoch: Epoch, *, part: Part = WHOLE) -> Iterator[Batch]:
        """The batches of one epoch for training."""
        return self._split.shuffled(batch_size, epoch, part=part)

    def ordered(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """All images in order, or `limit` spread over them; counted as they are taken."""
        for images, labels in self._split.ordered(batch_size, limit=limit, part=part):
            self.judged += len(labels)
            yield images, labels

    def originals(self, batch_size: int, *, limit: int | None = None, part: Part = WHOLE) -> Iterator[Batch]:
        """The images as their files have them; not counted: exported files are no part of the training."""
        return self._split.originals(batch_size, limit=limit, part=part)


def judged_on(split: Split) -> CountedSplit:
    """The split, which a job counts."""
    assert isinstance(split, CountedSplit)
    return split


def _wait() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
