from __future__ import annotations

from typing import Any

import pytest
import torch

from jstc.core.progress import Silent
from jstc.train.loop import counted, stream


@pytest.mark.parametrize("start", [0, 1, 3, 4, 7])
def test_a_later_start_continues_the_same_sequence(split: Any, start: int) -> None:
    whole = list(stream(split, 16, seed=3, start=0, count=10))
    rest = list(stream(split, 16, seed=3, start=start, count=10 - start))
    assert len(rest) == 10 - start
    for (images, labels), (others, names) in zip(whole[start:], rest, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, names)


def test_epochs_differ_and_each_holds_every_image(split: Any) -> None:
    batches = [images for images, _ in stream(split, 16, seed=3, start=0, count=6)]
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:])
    assert not torch.equal(first, second)
    for epoch in (first, second):
        assert torch.equal(epoch.sum((1, 2, 3)).sort().values, split.images.sum((1, 2, 3)).sort().values)


def test_no_batches_when_none_are_asked_for(split: Any) -> None:
    assert list(stream(split, 16, seed=3, start=2, count=0)) == []


class Steps(Silent):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def start(self, stage: str, total: int, unit: str) -> None:
        self.seen.append((stage, total, unit))

    def update(self, done: int, **figures: float) -> None:
        self.seen.append(done)


def test_counted_batches_are_the_whole_split_in_order_and_show(split: Any) -> None:
    steps = Steps()
    batches = list(counted(split, 20, progress=steps, stage="slim"))
    assert torch.equal(torch.cat([images for images, _ in batches]), split.images)
    assert steps.seen == [("slim", len(batches), "test batch"), *range(1, len(batches) + 1)]
