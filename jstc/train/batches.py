"""The endless sequence of training batches, addressed by the index of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from jstc.data import Split

__all__ = ["stream"]


def stream(
    split: Split, batch_size: int, *, seed: int, start: int, count: int, augment: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches `start` to `start + count` of epoch after shuffled epoch of `split`.

    A pure function of its arguments: whoever stopped after batch k continues at `start=k`, and rounds
    shorter or longer than an epoch still see every image equally often.
    """
    epoch, offset = divmod(start, split.steps(batch_size))
    while count > 0:
        batches = split.shuffled(batch_size, seed=seed, epoch=epoch, start=offset, augment=augment)
        for batch in islice(batches, count):
            count -= 1
            yield batch
        epoch, offset = epoch + 1, 0
