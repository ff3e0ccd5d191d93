"""Batches in sequence: endless ones for training, addressed by index; all of a split, counted."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from torch import Tensor

from jstc.progress import Progress
from jstc.train import distributed

if TYPE_CHECKING:
    from jstc.data import Split

__all__ = ["counted", "stream"]


def stream(
    split: Split, batch_size: int, *, seed: int, start: int, count: int, augment: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches `start` to `start + count` of epoch after shuffled epoch of `split`.

    Of several processes at work together each gets its part of every batch. A pure function of its
    arguments: whoever stopped after batch k continues at `start=k`, and rounds
    shorter or longer than an epoch still see every image equally often.
    """
    epoch, offset = divmod(start, split.steps(batch_size))
    while count > 0:
        batches = split.shuffled(
            batch_size, seed=seed, epoch=epoch, start=offset, augment=augment, part=distributed.part()
        )
        for batch in islice(batches, count):
            count -= 1
            yield batch
        epoch, offset = epoch + 1, 0


def counted(
    split: Split, batch_size: int, *, progress: Progress, stage: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """All of `split` in order, shown as progress of `stage`: scoring a large test split takes minutes."""
    progress.start(stage, -(-split.num_images // batch_size), "test batch")
    for done, batch in enumerate(split.ordered(batch_size, part=distributed.part()), start=1):
        yield batch
        progress.update(done)
    progress.finish()
